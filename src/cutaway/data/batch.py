"""A batch: some rows of data as a network takes them, and which of their positions count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor] | Tensor


def map_inputs(inputs: Inputs, fn: Callable[[Tensor], Tensor]) -> Inputs:
    """The same inputs with a function applied to each tensor."""
    return fn(inputs) if isinstance(inputs, Tensor) else {key: fn(x) for key, x in inputs.items()}


@dataclass(eq=False, repr=False)
class Batch:
    """Some rows of data.

    inputs: what `Network.forward` takes, a tensor or a dict of tensors; their first axis counts rows.
    keep: bool [b, t] or [b], the positions whose activations count (not begin, padding or other special tokens).
    labels: [b, t] with -100 where nothing is asked (masked language models) or [b] (images); None for causal models,
        whose targets are the next tokens, and where there are none.
    rows: int64 [b], which rows of the data these are.
    """

    inputs: Inputs
    keep: Tensor | None
    labels: Tensor | None
    rows: Tensor

    def __post_init__(self) -> None:
        named = {"inputs": self.inputs} if isinstance(self.inputs, Tensor) else dict(self.inputs)
        if not named:
            raise ValueError("a batch needs at least one input tensor; found an empty dict.")
        if self.rows.ndim != 1 or self.rows.is_floating_point() or self.rows.dtype == torch.bool:
            raise ValueError(f"a batch's rows are whole numbers of shape [b]; found {_said(self.rows)}.")
        named |= {name: x for name, x in (("keep", self.keep), ("labels", self.labels)) if x is not None}
        for name, x in named.items():
            if x.ndim == 0 or len(x) != len(self):
                raise ValueError(f"the batch has {len(self)} rows, but {name!r} is {_said(x)}; its first axis must be "
                                 "as long.")
        ids = named.get("input_ids")
        if self.keep is not None and (self.keep.dtype != torch.bool or self.keep.ndim > 2):
            raise ValueError(f"a batch's keep is bool of shape [b, t] or [b]; found {_said(self.keep)}.")
        if self.keep is not None and ids is not None and self.keep.ndim == 2 and self.keep.shape != ids.shape:
            raise ValueError(f"keep is {_said(self.keep)}, but the token ids are {_said(ids)}; the shapes must agree.")

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        inputs = {"inputs": self.inputs} if isinstance(self.inputs, Tensor) else self.inputs
        return f"Batch({', '.join(f'{name} {list(x.shape)}' for name, x in inputs.items())})"

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        keep, labels = (None if x is None else fn(x) for x in (self.keep, self.labels))
        return replace(self, inputs=map_inputs(self.inputs, fn), keep=keep, labels=labels, rows=fn(self.rows))

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on a device."""
        return self._map(lambda x: x.to(device))

    def select(self, index: Any) -> Batch:
        """Some rows of the batch, by a number, a list, a slice or a tensor of places, or by a bool for each row."""
        if isinstance(index, slice):
            return self._map(lambda x: x[index])
        chosen = torch.as_tensor(index).reshape(-1)
        if chosen.dtype == torch.bool:
            if len(chosen) != len(self):
                raise ValueError(f"the batch has {len(self)} rows; found a choice over {len(chosen)}.")
            chosen = chosen.nonzero()[:, 0]
        wrong = [row for row in chosen.tolist() if not 0 <= row < len(self)]
        if wrong:
            raise IndexError(f"the batch has the rows 0 to {len(self) - 1}; row {wrong[0]} was asked for.")
        return self._map(lambda x: x[chosen.to(x.device, torch.int64)])

    def repeat(self, n: int) -> Batch:
        """Each row n times, one after the other: row 0 n times, then row 1 n times."""
        return self._map(lambda x: x.repeat_interleave(n, dim=0))


def _said(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
