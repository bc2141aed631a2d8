"""How scores read data and ask for a metric: in parts, counted and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..network import Network

if TYPE_CHECKING:
    from ..units import Units

Metric = Callable[[Network, Any], Tensor]


@dataclass(frozen=True)
class Limits:
    """Which part of the data is read, and how many rows at a time; most: the greatest number of rows."""

    tokens: int | None = None
    batch_size: int = 16
    seed: int | None = None
    most: int | None = None

    def rows(self, data: Any) -> int:
        rows = data.n_rows if self.tokens is None else data.take(self.tokens).n_rows
        return rows if self.most is None else min(rows, self.most)

    def batches(self, data: Any) -> Iterator[Any]:
        """The batches of the data's first so many tokens, or of rows drawn by a seed; data without rows is an error."""
        if data.n_rows == 0:
            raise ValueError(f"{data.name} holds no rows, so there is nothing to measure on; give data with at least one.")
        yield from data.batches(self.batch_size, stop=self.rows(data), seed=self.seed)


@dataclass(frozen=True)
class Part:
    """One batch and the units that it is about: by site, where they are in the table and their number at the site."""

    batch: Any
    members: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass
class Reader:
    """Reads data in the parts that a table's units need, counts rows and kept tokens, and shows how far it has come.

    Units of the network are scored on every batch, units of the data (tokens) on the row that they stand in.
    passes: how many times each row goes through the network.
    """

    units: Units
    data: Any
    limits: Limits
    progress: bool = False
    passes: int = 1
    rows: int = 0
    tokens: int = 0
    bar: Any = None

    def __iter__(self) -> Iterator[Part]:
        from tqdm.auto import tqdm
        of_data = self.units.kind.axis == "t"
        n = self.units.frame["row"].nunique() if of_data else self.limits.rows(self.data)
        self.bar = tqdm(total=n * self.passes, desc="score", unit="row", leave=False, disable=None if self.progress else True)
        with self.bar:
            for part in self._rows() if of_data else self._batches():
                self.rows += len(part.batch.rows)
                self.tokens += counted(part.batch)
                yield part
        if self.rows and not self.tokens:
            raise ValueError(f"none of the tokens of {self.data.name} counts: its mask leaves all of them out, so nothing was "
                             "measured.")

    def passed(self, rows: int) -> None:
        """Say that so many rows have gone through the network."""
        self.bar.update(rows)

    def _batches(self) -> Iterator[Part]:
        everywhere = members(self.units)
        for batch in self.limits.batches(self.data):
            yield Part(batch, everywhere)

    def _rows(self) -> Iterator[Part]:
        if self.units.data != self.data.fingerprint:
            raise ValueError(f"these tokens stand in other data than {self.data.name}; score them on the data that the "
                             "table was made of.")
        if self.limits.tokens is not None or self.limits.seed is not None:
            raise ValueError("tokens are scored in the rows that they stand in; leave tokens= and seed= out.")
        rows = self.units.frame["row"].to_numpy()
        for row in dict.fromkeys(rows.tolist()):
            yield Part(self.data.rows([row]), members(self.units, rows == row))


def members(units: Units, where: np.ndarray | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By site, where its units are in the table and their number at the site."""
    frame = units.frame[["site", "unit"]].assign(row=np.arange(len(units.frame)))
    groups = (frame if where is None else frame[where]).groupby("site", sort=False)
    return {name: (group["row"].to_numpy(), group["unit"].to_numpy()) for name, group in groups}


def counted(batch: Any) -> int:
    """How many tokens of a batch count; rows, where the network reads no tokens."""
    if batch.keep is not None:
        return int(batch.keep.sum())
    ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, dict) else None
    return len(batch.rows) if ids is None else ids.numel()


def metric_name(metric: Metric) -> str:
    return getattr(metric, "__name__", type(metric).__name__)


def measured(metric: Metric, net: Network, batch: Any, where: str = "") -> Tensor:
    """A metric's values for the rows of a batch [b], checked."""
    values, n, name = metric(net, batch), len(batch.rows), metric_name(metric)
    if not isinstance(values, Tensor) or values.shape != (n,):
        found = f"the shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise ValueError(f"the metric {name} must give one number for each of a batch's {n} rows; it gave {found}.")
    finite = torch.isfinite(values).cpu()
    if not bool(finite.all()):
        row = int(batch.rows.cpu()[~finite][0])
        raise ValueError(f"the metric {name} is not a number on row {row} of the data{where}; look for NaN or infinity "
                         "in the network's weights, its inputs or the metric itself.")
    return values
