"""What a metric of a dictionary is: a function of a dictionary and a bench, and the controls it must be read against."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...metrics import bootstrap

if TYPE_CHECKING:
    from ..dictionary import Dictionary
    from .bench import Bench

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sums:
    """What one figure is computed from.

    parts: [n, m], one row for each thing that is resampled (documents, tasks, latents), the same things in the same order
    for every dictionary on a bench. statistic: [..., m] -> [...], from summed parts to the figure.
    better: `higher`, `lower`, or nothing where neither is. of, n: how many of what the figure was measured on.
    """

    parts: np.ndarray
    statistic: Statistic
    better: str
    of: str
    n: int
    unit: str = ""

    @property
    def value(self) -> float:
        return float(self.statistic(self.parts.sum(0)))

    @property
    def interval(self) -> tuple[float, float]:
        """95%, by bootstrap over the rows of `parts`."""
        return bootstrap(self.parts, self.statistic)


@dataclass(frozen=True)
class Undefined:
    """A figure that cannot be measured here, and why; never 0 and never -1."""

    reason: str


Result = Sums | Undefined
Results = dict[str, Result]


def mean_of(values: Sequence[float] | np.ndarray, better: str, of: str, unit: str = "", least: int = 2,
            things: Sequence[Any] | None = None) -> Result:
    """The mean over things; nan says that it is undefined for a thing, and fewer than `least` others leave it undefined.

    things: which thing each value is of, where each has several, such as one a split; they are resampled together.
    """
    x = np.asarray(values, np.float64)
    known = np.isfinite(x)
    parts = together(np.stack([np.where(known, x, 0.0), known], 1), things)
    n = int((parts[:, 1] > 0).sum())
    if n < least:
        return Undefined(f"it is defined for {n} of {len(parts)} {of}, and needs {least}")
    return Sums(parts, share, better, of, n, unit)


def together(parts: np.ndarray, things: Sequence[Any] | None) -> np.ndarray:
    """The parts of each thing summed, as the same thing in several splits is no independent sample."""
    if things is None:
        return parts
    number = {thing: i for i, thing in enumerate(dict.fromkeys(things))}
    summed = np.zeros((len(number), parts.shape[1]))
    np.add.at(summed, [number[thing] for thing in things], parts)
    return summed


def share(sums: np.ndarray) -> np.ndarray:
    """The first sum over the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def average(found: Sequence[Sums]) -> Sums:
    """The mean of a figure over several dictionaries that were measured on the same things."""
    parts, statistic = _beside(found)
    return replace(found[0], parts=parts, statistic=lambda sums: np.mean(statistic(sums), 0))


def less(ours: Sums, theirs: Sums) -> tuple[float, float, float]:
    """Ours less theirs with its 95% interval, paired over the things that were resampled where they are the same."""
    parts, statistic = _beside((ours, theirs))

    def difference(sums: np.ndarray) -> np.ndarray:
        one, other = statistic(sums)
        return one - other

    return (float(difference(parts.sum(0))), *bootstrap(parts, difference))


def _beside(found: Sequence[Sums]) -> tuple[np.ndarray, Callable[[np.ndarray], list[np.ndarray]]]:
    """The parts of several figures in one table, and all figures from its sums.

    Where the rows are not the same things, each figure has rows of its own, so that they vary independently.
    """
    edges = np.cumsum([0, *(each.parts.shape[1] for each in found)])
    if len({len(each.parts) for each in found}) == 1:
        parts = np.concatenate([each.parts for each in found], 1)
    else:
        tops = np.cumsum([0, *(len(each.parts) for each in found)])
        parts = np.zeros((tops[-1], edges[-1]))
        for i, each in enumerate(found):
            parts[tops[i]: tops[i + 1], edges[i]: edges[i + 1]] = each.parts

    def statistic(sums: np.ndarray) -> list[np.ndarray]:
        return [each.statistic(sums[..., lo:hi]) for each, lo, hi in zip(found, edges[:-1], edges[1:], strict=True)]

    return parts, statistic


@dataclass(frozen=True)
class Metric:
    """One family of figures that is measured in one way.

    role: `core`, `downstream`, `truth` or `diagnostic`; a diagnostic is never a headline. protocol: what is done, in words;
    with the version it names the way of measuring. relation: how it stands to the published metric of the same idea.
    controls: by name of `controls.CONTROLS`, which is `floor`, `ceiling` or `beside`. measure: gives the figures by name.
    anchors: controls that are no dictionary, by name, with what they are and their figures, such as a probe on everything.
    repeats: how many seeds of a random control are measured and averaged.
    """

    id: str
    version: int
    role: str
    protocol: str
    relation: str
    controls: dict[str, str]
    measure: Callable[[Dictionary, Bench], Results]
    anchors: Callable[[Dictionary, Bench], dict[str, tuple[str, Results]]] | None = None
    repeats: int = 1

    @property
    def name(self) -> str:
        return f"{self.id}@{self.version}"

    def digest(self, *facts: Any) -> str:
        """A hash of the way of measuring and of what it was measured on."""
        return hashlib.sha256(repr((self.name, self.protocol, sorted(self.controls), facts)).encode()).hexdigest()[:16]
