"""What a score gives: a column of the units table, and the facts without which it is only numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import find
from .places import Entries
from .reading import Metric, Reader, metric_name

if TYPE_CHECKING:
    from ..units import Units


@dataclass(frozen=True)
class Column:
    """values: one number for each row of the table; about: metric, data, n, seed, reference and the options."""

    values: np.ndarray
    about: dict[str, Any]


def facts(method: str, reader: Reader, reference: str, metric: Metric | None, **options: Any) -> dict[str, Any]:
    """What a score says about itself, ready for JSON."""
    return {"method": method, "metric": None if metric is None else metric_name(metric), "data": reader.data.name,
            "fingerprint": reader.data.fingerprint, "rows": reader.rows, "tokens": reader.tokens,
            "reference": reference, "seed": reader.limits.seed, "network": reader.units.net.name,
            "options": options}


class Shared:
    """A score that says what each entry of a shared pass adds to its unit.

    sweep: the pass, which gives its entries to all scores that share it. each: entries -> numbers of the same shape.
    combine: how a unit's numbers come together, `sum` or `amax`. per: what a sum is divided by, `row` or `position`.
    """

    __name__: str

    def __init__(self, sweep: Callable[..., list[Column]], each: Callable[[Tensor], Tensor], combine: str, per: str):
        update_wrapper(self, each)
        self.sweep, self.each, self.combine, self.per = sweep, each, combine, per
        parameters = [p for name, p in inspect.signature(sweep).parameters.items() if name != "scores"]
        self.__signature__ = inspect.Signature(parameters, return_annotation="Column")

    def __call__(self, units: Units, data: Any, **options: Any) -> Column:
        return self.sweep(units, data, [self], **options)[0]

    def of(self, form: Entries, values: Tensor, size: int, mask: Tensor | None = None) -> np.ndarray:
        """One number for each of a site's units [size], from the entries of one batch.

        values: in the shape of the cut tensor, with axes of size 1 inside units; mask: the positions that count.
        """
        flat = self.each(form.flat(values))
        flat = flat if mask is None else flat[mask.flatten()]
        if not len(flat):
            return np.zeros(size)
        if form.units is None:
            found = flat.sum(0) if self.combine == "sum" else flat.amax(0)
        else:
            index = form.units.reshape(-1, flat.shape[-1]) if mask is None else form.flat(form.units)[mask.flatten()]
            found = flat.new_zeros(size).scatter_reduce(0, index.flatten(), flat.flatten(), self.combine)
        return found.double().cpu().numpy()


def shared(sweep: Callable[..., list[Column]], combine: str = "sum", per: str = "row") -> Callable[[Callable], Shared]:
    """Make a score of a function of the entries of a pass that other scores share."""
    return lambda each: Shared(sweep, each, combine, per)


class Totals:
    """The running columns of the scores that share a pass; they are added up site by site, and no batch is kept."""

    def __init__(self, units: Units, scores: Sequence[Shared]):
        self.scores, self.values = scores, np.zeros((len(scores), len(units.frame)))
        self.n = {"row": np.zeros(len(units.frame)), "position": np.zeros(len(units.frame))}

    def add(self, members: tuple[np.ndarray, np.ndarray], form: Entries, values: Tensor, size: int,
            mask: Tensor | None = None) -> None:
        index, numbers = members
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        for total, score in zip(self.values, self.scores, strict=True):
            new = score.of(form, values, size, mask)[numbers]
            total[index] = total[index] + new if score.combine == "sum" else np.maximum(total[index], new)

    def columns(self) -> list[np.ndarray]:
        return [total if score.combine == "amax" else total / np.maximum(self.n[score.per], 1)
                for total, score in zip(self.values, self.scores, strict=True)]


def run(units: Units, names: Sequence[str], data: Any, **options: Any) -> dict[str, Column]:
    """Several scores of the units of a table by name, in as few passes as they can share."""
    methods = {name: find(name, "score").object for name in names}
    takes = {name: list(inspect.signature(method).parameters)[2:] for name, method in methods.items()}
    known = dict.fromkeys(option for own in takes.values() for option in own)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r} of {', '.join(names)}; there are {', '.join(known)}.")
    found: dict[str, Column] = {}
    for name, method in methods.items():
        if name in found:
            continue
        own = {option: value for option, value in options.items() if option in takes[name]}
        if not isinstance(method, Shared):
            found[name] = method(units, data, **own)
            continue
        together = {n: m for n, m in methods.items() if isinstance(m, Shared) and m.sweep is method.sweep}
        found.update(zip(together, method.sweep(units, data, list(together.values()), **own), strict=True))
    return {name: found[name] for name in names}
