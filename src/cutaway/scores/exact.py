"""The exact effect of closing each unit alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from ..kinds import block_of
from ..metrics import row_loss
from ..network import Edit
from ..network.edit import Reference
from ..network.resume import Differs, Kept
from .column import Column, facts
from .places import Place, places, reference_name
from .ranks import repeatability
from .reading import Limits, Metric, Part, Reader, measured

if TYPE_CHECKING:
    from ..units import Units

CLOSE = 1e-4  # how near a pass that begins at a block must come to the whole pass, relative to the metric


@dataclass(frozen=True)
class Unit:
    """One unit to be closed: its site, its row in the table, its number at the site, and the first block it acts on."""

    site: str
    row: int
    number: int
    block: int


@method("exact", family="score", title="Measured effect of closing a unit",
        paper="Morcos et al. 2018, arXiv:1803.06959; Michel et al. 2019, arXiv:1905.10650, section 3.2")
@torch.no_grad()
def exact(units: Units, data: Any, *, metric: Metric = row_loss, ref: str | Reference | None = None,
          tokens: int | None = None, batch_size: int = 16, at_once: int | None = None, seed: int | None = None,
          progress: bool = False) -> Column:
    """How much the metric rises when a unit is closed and all others are left alone, mean over rows.

    A pass begins at the block of its first closed unit, with what the block was given in the pass without a closed unit,
    where the network's family says what a block is and that gives the same metric; elsewhere all of it runs. The column's
    facts say as `repeats` how far these effects would agree with themselves on as much other data.
    metric: `(network, batch) -> [b]`, lower is better; a row's metric may depend on that row alone.
    ref: what stands in for a closed unit: `zero`, `mean`, `skip`, a function, or none for the usual one of the kind.
    at_once: how many units are closed in one pass, each in its own copy of the batch's rows; left out, as many as fill
        a pass of `batch_size` rows.
    tokens: use the first so many tokens of the data, or, with a seed, as many from rows drawn by it.
    """
    reader = _reader(units, data, Limits(tokens, batch_size, seed), progress)
    total, rows = np.zeros((2, len(units.frame))), np.zeros((2, len(units.frame)))  # of even and of odd rows
    for first, index, effects in closings(units, reader, metric, ref, at_once):
        for half in (0, 1):
            mine = effects[(first + half) % 2:: 2]
            total[half, index] += mine.sum(0)
            rows[half, index] += len(mine)
    with np.errstate(invalid="ignore"):  # one row has no second half
        repeats = repeatability(total / rows)
    about = facts("exact", reader, reference_name(units, ref), metric)
    return Column(total.sum(0) / np.maximum(rows.sum(0), 1), {**about, "repeats": repeats})


@torch.no_grad()
def effects(units: Units, data: Any, *, metric: Metric = row_loss, ref: str | Reference | None = None,
            tokens: int | None = None, batch_size: int = 16, at_once: int | None = None, seed: int | None = None,
            progress: bool = False) -> tuple[np.ndarray, dict[str, Any]]:
    """The exact effect of closing each unit on each row, [rows, units], and what it was measured by and on; as `exact`."""
    if units.kind.axis == "t":
        raise ValueError("each token stands in one row of the data, so its effect has no spread over rows.")
    reader = _reader(units, data, Limits(tokens, batch_size, seed), progress)
    found = np.zeros((reader.limits.rows(data), len(units.frame)))
    for first, index, values in closings(units, reader, metric, ref, at_once):
        found[first: first + len(values), index] = values
    return found, facts("exact", reader, reference_name(units, ref), metric)


def _reader(units: Units, data: Any, limits: Limits, progress: bool) -> Reader:
    """A reader that counts one pass for each unit that a row is measured with."""
    each = len(units.frame) // (units.frame["row"].nunique() if units.kind.axis == "t" else 1)
    return Reader(units, data, limits, progress, passes=each)


def closings(units: Units, reader: Reader, metric: Metric, ref: str | Reference | None,
             at_once: int | None) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """Every unit closed on every row, some at a time: the first row's number, rows of the table, effects [rows, units]."""
    if at_once is not None and at_once < 1:
        raise ValueError(f"at least one unit is closed at a time; found at_once={at_once}.")
    where, net = places(units, ref, reader.data, reader.limits), units.net
    blocks, kept = {name: block_of(net, place.site) or 0 for name, place in where.items()}, Kept(net)
    checked: dict[int, bool] = {0: True}
    for part in reader:
        n_rows = len(part.batch.rows)
        with kept.keeping():
            before = measured(metric, net, part.batch).double()
        todo = [Unit(name, int(row), int(number), blocks[name]) for name, group in part.members.items()
                for row, number in zip(*group, strict=True)]
        todo.sort(key=lambda unit: unit.block)
        n = at_once or max(1, reader.limits.batch_size // n_rows)
        for chunk in (todo[i: i + n] for i in range(0, len(todo), n)):
            start = chunk[0].block if kept.whole else 0
            if start not in checked:
                checked[start] = _same_from(kept, start, metric, part, before)
            found = _closed(units, metric, where, part, chunk, kept, start if checked[start] else 0)
            yield reader.rows - n_rows, [unit.row for unit in chunk], (found - before[:, None]).cpu().numpy()
            reader.passed(n_rows * len(chunk))


def _same_from(kept: Kept, start: int, metric: Metric, part: Part, before: Tensor) -> bool:
    """Whether the metric of the first row is the same when the pass begins at a block."""
    try:
        with kept.resumed(start, rows=1):
            found = measured(metric, kept.net, part.batch.select([0])).double()
    except Exception:  # whatever a metric says to a pass without its first blocks, it shall have the whole pass
        return False
    return bool(torch.allclose(found, before[:1], rtol=CLOSE, atol=CLOSE * 0.1))


def _closed(units: Units, metric: Metric, where: dict[str, Place], part: Part, chunk: Sequence[Unit], kept: Kept,
            start: int) -> Tensor:
    """The metric of each row with each unit of the chunk closed: [rows, units]."""
    n_rows, n = len(part.batch.rows), len(chunk)
    gates: dict[str, Tensor] = {}
    for copy, unit in enumerate(chunk):
        place = where[unit.site]
        gate = gates.setdefault(unit.site, torch.ones(n_rows, n, place.size if place.axis else 1))
        gate[:, copy, unit.number] = 0
    edits = [Edit(where[name].site, where[name].ref, *_over(gate.flatten(0, 1), where[name])) for name, gate in gates.items()]
    said = f" when one of {chunk[0].site} unit {chunk[0].number} to {chunk[-1].site} unit {chunk[-1].number} is closed"
    batch = part.batch.repeat(n) if n > 1 else part.batch
    for begin in dict.fromkeys((start, 0)):
        try:
            with units.net.edited(edits), kept.resumed(begin, n) if begin else nullcontext():
                return measured(metric, units.net, batch, said).double().view(n_rows, n)
        except Differs:
            continue
    raise AssertionError("a whole pass has nothing to differ from")


def _over(gate: Tensor, place: Place) -> tuple[Tensor, str]:
    """A gate [copies, units] as the place takes it."""
    return (gate, f"b {place.axis}") if place.axis else (gate[:, 0], "b")
