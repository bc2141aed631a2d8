"""Tensors and arrays as rows of data, for any network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import Inputs, map_inputs
from .rows import Rows, row_numbers


@dataclass(frozen=True, eq=False, repr=False)
class ArrayData(Rows):
    """Rows of tensors in memory; x: a tensor or a dict of tensors, y: labels or None."""

    x: Inputs
    y: Tensor | None

    def _read(self, whole: np.ndarray) -> tuple[Inputs, Tensor | None, Tensor | None]:
        index = torch.from_numpy(whole)
        inputs = map_inputs(self.x, lambda x: x[index])
        mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
        keep = mask.bool() if mask is not None and mask.ndim == 2 else None
        return inputs, keep, None if self.y is None else self.y[index]

    def _identity(self) -> str:
        named = {"x": self.x} if isinstance(self.x, Tensor) else self.x
        named = named if self.y is None else {**named, "y": self.y}
        return "\n".join(f"{name} {x.dtype} {list(x.shape)} {hash_of(x)}" for name, x in named.items())


def hash_of(x: Tensor) -> str:
    """A hash of the bytes of a tensor with at least one axis."""
    return hashlib.sha256(x.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def arrays(x: Any, y: Any = None, *, name: str = "arrays") -> ArrayData:
    """Tensors or numpy arrays as rows of data for any network.

    x: [n, ...], or a dict of such for networks with named inputs, where positions that its `attention_mask` [n, t] hides, such
    as padding, do not count; y: labels [n] or [n, ...]. float64 becomes float32 and whole numbers become int64, as networks
    expect them. Raises ValueError for no rows, unequal lengths, NaN and
    infinity.
    """
    named = {key: _tensor(value, key) for key, value in (x.items() if isinstance(x, Mapping) else [("x", x)])}
    inputs: Inputs = named if isinstance(x, Mapping) else named["x"]
    labels = None if y is None else _tensor(y, "y")
    if not named:
        raise ValueError(f"{name} holds no inputs; give at least one array.")
    lengths = {key: len(value) for key, value in named.items()}
    n = next(iter(lengths.values()))
    if set(lengths.values()) != {n}:
        raise ValueError(f"the inputs of {name} have different numbers of rows: {lengths}.")
    if labels is not None:
        check_labels(labels, n, name)
    return ArrayData(name, row_numbers(n, name), inputs, labels)


def check_labels(labels: Tensor, n: int, name: str) -> None:
    """Refuse labels that are not one for each row."""
    if labels.ndim == 0 or len(labels) != n:
        found = "one number" if labels.ndim == 0 else f"{len(labels)} labels"
        raise ValueError(f"{name} has {n} rows, but {found}; give one label for each row.")


def _tensor(values: Any, name: str) -> Tensor:
    try:
        x = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a tensor or an array of numbers; found a {type(values).__name__}.") from error
    if x.ndim == 0:
        raise ValueError(f"{name} must have rows, so at least one axis; found a single number.")
    if x.is_floating_point():
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} holds NaN or infinity; leave those rows out.")
        return x.float() if x.dtype == torch.float64 else x
    return x if x.dtype == torch.bool else x.long()
