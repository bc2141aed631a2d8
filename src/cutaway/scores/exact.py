"""The exact effect of closing each unit alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..catalogue import method
from ..metrics import row_loss
from ..network import Edit
from ..network.edit import Reference
from .column import Column, facts
from .places import Place, places, reference_name
from .ranks import repeatability
from .reading import Limits, Metric, Part, Reader, measured

if TYPE_CHECKING:
    from ..units import Units

Unit = tuple[str, int, int]  # its site, its row in the table, its number at the site


@method("exact", family="score", title="Measured effect of closing a unit",
        paper="Morcos et al. 2018, arXiv:1803.06959; Michel et al. 2019, arXiv:1905.10650, section 3.2")
@torch.no_grad()
def exact(units: Units, data: Any, *, metric: Metric = row_loss, ref: str | Reference | None = None,
          tokens: int | None = None, batch_size: int = 16, at_once: int | None = None, seed: int | None = None,
          progress: bool = False) -> Column:
    """How much the metric rises when a unit is closed and all others are left alone, mean over rows.

    The column's facts say as `repeats` how far these effects would agree with themselves on as much other data.
    metric: `(network, batch) -> [b]`, lower is better; a row's metric may depend on that row alone.
    ref: what stands in for a closed unit: `zero`, `mean`, `skip`, a function, or none for the usual one of the kind.
    at_once: how many units are closed in one pass, each in its own copy of the batch's rows; left out, as many as fill
        a pass of `batch_size` rows.
    tokens: use the first so many tokens of the data, or, with a seed, as many from rows drawn by it.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at least one unit is closed at a time; found at_once={at_once}.")
    limits = Limits(tokens, batch_size, seed)
    each = len(units.frame) // (units.frame["row"].nunique() if units.kind.axis == "t" else 1)
    where, reader = places(units, ref, data, limits), Reader(units, data, limits, progress, passes=each)
    total, rows = np.zeros((2, len(units.frame))), np.zeros((2, len(units.frame)))  # of even and of odd rows
    for part in reader:
        n_rows = len(part.batch.rows)
        before = measured(metric, units.net, part.batch).double()
        todo = [(name, int(row), int(number)) for name, group in part.members.items()
                for row, number in zip(*group, strict=True)]
        n = at_once or max(1, batch_size // n_rows)
        for chunk in (todo[i: i + n] for i in range(0, len(todo), n)):
            index = [row for _, row, _ in chunk]
            effects = _closed(units, metric, where, part, chunk).view(n_rows, -1).double() - before[:, None]
            for half in (0, 1):
                mine = effects[(reader.rows - n_rows + half) % 2:: 2]
                total[half, index] += mine.sum(0).cpu().numpy()
                rows[half, index] += len(mine)
            reader.passed(n_rows * len(chunk))
    with np.errstate(invalid="ignore"):  # one row has no second half
        repeats = repeatability(total / rows)
    about = facts("exact", reader, reference_name(units, ref), metric)
    return Column(total.sum(0) / np.maximum(rows.sum(0), 1), {**about, "repeats": repeats})


def _closed(units: Units, metric: Metric, where: dict[str, Place], part: Part, chunk: Sequence[Unit]) -> torch.Tensor:
    """The metric of each row with each unit of the chunk closed: [rows x units], the first row's units first."""
    n_rows, n = len(part.batch.rows), len(chunk)
    gates: dict[str, torch.Tensor] = {}
    for copy, (name, _, number) in enumerate(chunk):
        place = where[name]
        gate = gates.setdefault(name, torch.ones(n_rows, n, place.size if place.axis else 1))
        gate[:, copy, number] = 0
    edits = [Edit(place.site, place.ref, *_over(gates[name].flatten(0, 1), place))
             for name, place in where.items() if name in gates]
    said = f" when one of {chunk[0][0]} unit {chunk[0][2]} to {chunk[-1][0]} unit {chunk[-1][2]} is closed"
    batch = part.batch.repeat(n) if n > 1 else part.batch
    with units.net.edited(edits):
        return measured(metric, units.net, batch, said)


def _over(gate: torch.Tensor, place: Place) -> tuple[torch.Tensor, str]:
    """A gate [copies, units] as the place takes it."""
    return (gate, f"b {place.axis}") if place.axis else (gate[:, 0], "b")
