"""What a scorer found of one name, and the score that it comes to: with its floor, and the interval of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..metrics import Figure
from .windows import HARD, RANDOM, Unmeasurable, Window

RESAMPLES = 1000
CHANCE = {"balanced accuracy": 0.5, "AUROC": 0.5, "correlation": 0.0, "nats": 0.0}  # what a name that says nothing scores


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a scorer found of one name.

    statistic: from weights of the items [s, n] to the score [s]; groups: the row of data that each item is from [n], which
    intervals resample; unparsed: items whose answer could not be read, which count for nothing and are reported; parts: the
    same score of some of the items.
    """

    statistic: Callable[[np.ndarray], np.ndarray]
    groups: np.ndarray
    unit: str
    of: str = "windows"
    unparsed: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Items that count."""
        return len(self.groups) - self.unparsed

    @property
    def value(self) -> float:
        return float(self.statistic(np.ones((1, len(self.groups))))[0])


def separated(values: Sequence[float | None] | np.ndarray, labels: Sequence[bool], windows: Sequence[Window]) -> Outcome:
    """How well values tell items that are so from items that are not: the area under the ROC curve, with ties as half.

    For answers of yes and no (1 and 0) that is the balanced accuracy. values: None where an answer could not be read.
    """
    made = np.array([np.nan if value is None else float(value) for value in values])
    truth, known = np.array(labels, bool), np.isfinite(made)
    if not (known & truth).any() or not (known & ~truth).any():
        raise Unmeasurable(f"of {len(made)} answers {int((~known).sum())} could not be read, and none is left of one side")
    yes, no = np.flatnonzero(known & truth), np.flatnonzero(known & ~truth)
    above = (made[yes, None] > made[no]) + 0.5 * (made[yes, None] == made[no])

    def statistic(weights: np.ndarray) -> np.ndarray:
        a, b = weights[:, yes], weights[:, no]
        with np.errstate(invalid="ignore"):
            return ((a @ above) * b).sum(1) / (a.sum(1) * b.sum(1))

    def part(where: np.ndarray) -> float:
        return float(statistic((where & known)[None].astype(float))[0])

    kinds, quantiles = np.array([w.kind for w in windows]), np.array([w.quantile for w in windows])
    spans = {"strongest third": quantiles > 2 / 3, "weakest third": quantiles <= 1 / 3}
    parts = {f"against {kind} negatives": part(truth | (kinds == kind)) for kind in (RANDOM, HARD)}
    parts |= {f"of the {name}": part((truth & there) | ~truth) for name, there in spans.items()}
    binary = set(made[known].tolist()) <= {0.0, 1.0}
    return Outcome(statistic, np.array([w.row for w in windows]), "balanced accuracy" if binary else "AUROC",
                   unparsed=int((~known).sum()), parts={name: value for name, value in parts.items() if np.isfinite(value)})


def correlated(made: Sequence[np.ndarray | None], true: Sequence[np.ndarray], windows: Sequence[Window]) -> Outcome:
    """Pearson's correlation over all tokens of all windows, joined: 0 for values that never change."""
    sums = np.array([np.zeros(6) if x is None else [len(y), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
                     for x, y in zip(made, true, strict=True)])
    unparsed = sum(x is None for x in made)
    if unparsed == len(made):
        raise Unmeasurable(f"none of {len(made)} answers could be read")

    def statistic(weights: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = (weights @ sums).T
        spread = np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
        return np.where(spread > 0, (n * xy - x * y) / np.maximum(spread, 1e-300), 0.0)

    return Outcome(statistic, np.array([w.row for w in windows]), "correlation", unparsed=unparsed)


def averaged(values: np.ndarray, groups: np.ndarray, unit: str, of: str) -> Outcome:
    """The mean of numbers."""
    def statistic(weights: np.ndarray) -> np.ndarray:
        return weights @ values / weights.sum(1)
    return Outcome(statistic, groups, unit, of)


@dataclass(frozen=True)
class Score:
    """A name's score, what names of other features score on the very same items, and the difference of the two.

    value, floor, above: with their 95% intervals over rows of data, those of the difference from paired samples; floor: the
    mean over `others` names of other features. asked, unparsed: items that a judge was asked about, and answers of it that
    could not be read. parts: the same score of some of the items. why: why there is no score; empty where there is one.
    """

    scorer: str
    value: Figure | None = None
    floor: Figure | None = None
    above: Figure | None = None
    others: int = 0
    asked: int = 0
    unparsed: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    def __post_init__(self) -> None:
        if not self.why and not (self.value and self.floor and self.above):
            raise ValueError(f"the score {self.scorer} must come with its floor and their difference, or say why not.")

    @property
    def tells(self) -> bool:
        """Whether the intervals put the score above its floor and above what a name that says nothing scores."""
        if self.value is None or self.above is None:
            return False
        return self.above.low > 0 and self.value.low > CHANCE[self.value.unit]

    @property
    def brief(self) -> str:
        """The score with its interval and its floor, in few words."""
        if self.value is None or self.floor is None:
            return f"{self.scorer} undefined: {self.why}"
        v, f = self.value, self.floor
        against = "" if self.tells else ", not above floor and chance"
        return (f"{self.scorer} {v.value:.2f} [{v.low:.2f}, {v.high:.2f}], floor {f.value:.2f} [{f.low:.2f}, {f.high:.2f}]"
                f"{against}")

    def __str__(self) -> str:
        if self.value is None:
            return self.brief
        lost = f", {self.unparsed} of {self.asked} answers unreadable" if self.unparsed else ""
        hard = self.parts.get(f"against {HARD} negatives")
        only = "" if hard is None else f", {hard:.2f} against hard negatives"
        return f"{self.brief}{only} ({self.value.unit}, {self.value.n} {self.value.of}{lost})"

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "tells": self.tells}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Score:
        """The score that `json` gave as data, with null for nan or not."""
        own = {name: found[name] for name in cls.__dataclass_fields__}
        return cls(**{**own, **{name: own[name] and _figure(own[name]) for name in ("value", "floor", "above")}})


def _figure(found: Mapping[str, Any]) -> Figure:
    missing = {name: float("nan") for name in ("low", "high") if found[name] is None}
    return Figure(**{**found, **missing})


def scored(scorer: str, outcomes: Sequence[Outcome], data: str = "", seed: int = 0) -> Score:
    """The score of the first of some outcomes, against a floor that is the mean of the others."""
    own, others = outcomes[0], outcomes[1:]
    if not others:
        raise ValueError(f"the score {scorer} has no floor without the names of other features; give at least one.")
    rows, place = np.unique(own.groups, return_inverse=True)
    random = np.random.default_rng(seed)
    weights = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)[:, place].astype(float)
    floor = float(np.mean([other.value for other in others]))
    ours, theirs = own.statistic(weights), np.mean([other.statistic(weights) for other in others], axis=0)

    def figure(name: str, value: float, samples: np.ndarray, baseline: str) -> Figure:
        low, high = np.nanpercentile(samples, [2.5, 97.5]) if len(rows) > 1 else (np.nan, np.nan)
        return Figure(name, value, float(low), float(high), own.n, own.of, own.unit, baseline, data, seed)

    names = f"the names of {len(others)} other features"
    return Score(scorer, figure(scorer, own.value, ours, ""), figure(f"{scorer} floor", floor, theirs, names),
                 figure(f"{scorer} above floor", own.value - floor, ours - theirs, names), len(others), len(own.groups),
                 own.unparsed, own.parts)
