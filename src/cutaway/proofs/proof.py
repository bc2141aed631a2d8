"""What a proof is: a claim, the paired comparisons it rests on, and what comes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np

from ..metrics.intervals import interval


@dataclass(frozen=True)
class Comparison:
    """A method against a named baseline, one figure each for every seed.

    method, baseline: their names, with the settings that were chosen for them; figure: what was measured.
    ours, theirs: the figures by seed. better: `lower` or `higher`, which the claim says that ours are.
    difference: the mean of ours - theirs, with its 95% interval low, high over seeds.
    effect: the mean difference over the standard deviation of the differences (Cohen's d of pairs); nan without a spread.
    """

    method: str
    baseline: str
    figure: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    better: str
    difference: float
    low: float
    high: float
    effect: float

    @property
    def holds(self) -> bool | None:
        """Whether ours are better; none where the interval covers no difference."""
        if not (self.low > 0 or self.high < 0):
            return None
        return (self.difference < 0) == (self.better == "lower")

    def __str__(self) -> str:
        return (f"{self.figure}: {self.method} {np.mean(self.ours):.4g}, {self.baseline} {np.mean(self.theirs):.4g}; "
                f"difference {self.difference:+.3g} [{self.low:+.3g}, {self.high:+.3g}]")


def compare(method: str, baseline: str, figure: str, ours: Iterable[float], theirs: Iterable[float],
            better: str = "lower") -> Comparison:
    """The paired comparison of two series of figures, seed by seed."""
    a, b = tuple(map(float, ours)), tuple(map(float, theirs))
    if len(a) != len(b) or not a:
        raise ValueError(f"a paired comparison takes one figure of each for every seed; found {len(a)} and {len(b)}.")
    if better not in ("lower", "higher"):
        raise ValueError(f"better is 'lower' or 'higher'; found {better!r}.")
    d = np.subtract(a, b)
    if not np.isfinite(d).all():
        raise ValueError(f"{figure} of {method} or {baseline} is not a number for some seed.")
    spread = float(d.std(ddof=1)) if len(d) > 1 else 0.0
    low, high = interval(d)
    return Comparison(method, baseline, figure, a, b, better, float(d.mean()), low, high,
                      float(d.mean()) / spread if spread else float("nan"))


@dataclass(frozen=True)
class Proof:
    """A claim, and whether it was seen to hold.

    claim: the smallest honest demonstration, in one sentence. comparisons: what it rests on; checks: conditions that it
    rests on besides, each a sentence and whether it was met. beside: comparisons that are shown and decide nothing.
    figures: everything else that was measured; n: how many of what each figure was measured on; notes: why the claim does
    not hold, and what is smaller here than in the paper.
    The last six fields are filled in by `prove`. cpu_seconds: of all cores together, which other work on the machine does
    not change as it changes `seconds`.
    """

    id: str
    claim: str
    comparisons: tuple[Comparison, ...]
    checks: Mapping[str, bool] = field(default_factory=dict)
    beside: tuple[Comparison, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    n: Mapping[str, int] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    time: str = ""

    @property
    def holds(self) -> bool | None:
        """True when all of it holds, False when some of it does not, none when that could not be decided."""
        parts = [*self.checks.values(), *(part.holds for part in self.comparisons)]
        if not parts:
            raise ValueError(f"the proof {self.id!r} rests on nothing: it has neither comparisons nor checks.")
        return False if False in parts else None if None in parts else True

    def unless(self, *reasons: str) -> Proof:
        """The same proof, which gives the likely reasons first where it does not hold."""
        return self if self.holds else replace(self, notes=(*reasons, *self.notes))

    @property
    def words(self) -> str:
        return VERDICTS[self.holds]

    def json(self) -> dict[str, Any]:
        """The proof as data, with nan as null."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        head = {name: fields.pop(name) for name in ("id", "claim")}
        for name in ("comparisons", "beside"):
            fields[name] = [{**vars(part), "holds": part.holds} for part in fields[name]]
        return plain({**head, "holds": self.holds, "interval": "95%, Student's t over the seeds' paired differences",
                      **fields})

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Proof:
        """The proof that `json` gave as data."""
        fields = {name: found[name] for name in cls.__dataclass_fields__}
        for name in ("comparisons", "beside"):
            fields[name] = tuple(_comparison(part) for part in fields[name])
        return cls(**{**fields, "seeds": tuple(fields["seeds"]), "notes": tuple(fields["notes"])})


VERDICTS = {True: "holds", False: "does not hold", None: "not decided"}


def _comparison(found: Mapping[str, Any]) -> Comparison:
    fields = {name: found[name] for name in Comparison.__dataclass_fields__}
    fields = {name: float("nan") if value is None else tuple(value) if isinstance(value, list) else value
              for name, value in fields.items()}
    return Comparison(**fields)


def plain(value: Any) -> Any:
    """A value as JSON knows it: no tuples, no arrays, no nan."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not isfinite(value) else value


def say(text: str) -> None:
    """One line about how far a proof is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def say_rows(seed: int, rows: Mapping[str, Mapping[str, float]]) -> None:
    """The figures of a seed, by who has them."""
    say(f"seed {seed}: " + "; ".join(f"{name} " + ", ".join(f"{key} {value:.3g}" for key, value in row.items())
                                     for name, row in rows.items()))


def over_seeds(one: Callable[[int], dict[str, dict[str, float]]], seeds: Iterable[int]) -> list[dict[str, dict[str, float]]]:
    """What `one` finds for each seed, said as it comes."""
    found = []
    for seed in seeds:
        found.append(one(seed))
        say_rows(seed, found[-1])
    return found
