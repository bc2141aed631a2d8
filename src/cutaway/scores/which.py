"""Which score to trust: every cheap score of every kind of unit against the exact effect, on a user's own network and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue import find
from ..kinds import KINDS, sites_of
from ..metrics.discovery import benjamini_hochberg
from ..network import Network
from .running import defined, run
from .trust import Trust, compared

if TYPE_CHECKING:
    import pandas as pd

    from ..units import Units

USUAL = ("layers", "sublayers", "heads", "neurons")
FIRST = {"units", "data"}  # what every score takes that is no option
SHORT = {"path": 8}  # scores of many passes, which are taken on the first of so many parts of the tokens


@dataclass(frozen=True)
class Verdict:
    """The scores of one kind of unit, each with its trust, and what that comes to.

    units: the table with all scores as columns; sample: some of its rows with the column `exact`, measured on the data of
    the check; trusts: by score, the best first and the undefined last; none where `why` says that nothing could be measured.
    left_out: scores that this network does not allow, each with the reason.
    """

    units: Units
    sample: Units
    trusts: dict[str, Trust]
    left_out: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def kind(self) -> str:
        return self.units.kind.name

    @property
    def best(self) -> Trust | None:
        """The score with the highest agreement, if it is above 0 beyond chance, also for the best of so many scores."""
        real = beyond_chance(list(self.trusts.values()))
        return next((trust for trust in self.trusts.values() if trust.score in real and trust.low > 0), None)

    @property
    def shown(self) -> str:
        """The score that units are ordered by and drawn with: the one that agrees best, or else the first."""
        return next((name for name, trust in self.trusts.items() if trust.defined), next(iter(self.trusts)))

    @property
    def words(self) -> str:
        """Which score to use."""
        if self.why:
            return f"For {self.kind} nothing can be said: {self.why}"
        best, any_defined = self.best, any(trust.defined for trust in self.trusts.values())
        if not any_defined:
            why = next(iter(self.trusts.values())).why if self.trusts else "no score is defined for them"
            return f"For {self.kind} nothing can be said, because {why}; measure them exactly."
        if best is None:
            return f"For {self.kind} none of the scores can be trusted on this data; measure them exactly{self._noisy}."
        as_good = [name for name, trust in self.trusts.items() if trust.defined and trust.agreement >= best.low][1:]
        beside = f" ({', '.join(as_good[:3])} cannot be told from it)" if as_good else ""
        sample = f"{best.agreement:.2f} [{best.low:.2f}, {best.high:.2f}] over {best.n} of {best.of:,} units"
        return f"For {self.kind} use {best.score}: its rank agreement with the exact effect is {sample}{beside}{self._noisy}."

    @property
    def _noisy(self) -> str:
        """A warning where the exact effect is mostly the chance of the data."""
        repeats = next(iter(self.trusts.values())).repeats
        if not repeats < 0.5:
            return ""
        return f"; the exact effect itself repeats only {repeats:.2f} on so much data, so give it more"


def beyond_chance(trusts: Sequence[Trust], level: float = 0.05) -> set[str]:
    """The scores whose agreement is above 0 beyond chance, with few false ones among them however many were compared.

    Student's t of the rank correlation, one-sided and no smaller than the chance of one order of the units among all, adjusted
    over the scores by Benjamini and Hochberg.
    """
    from scipy.special import gammaln
    from scipy.stats import t
    defined = [trust for trust in trusts if trust.defined]
    if not defined:
        return set()
    r, n = np.array([[trust.agreement, trust.n] for trust in defined]).T
    size = r * np.sqrt((n - 2) / np.maximum(1 - r * r, 1e-12))
    p = np.maximum(t.sf(size, n - 2), np.exp(-gammaln(n + 1)))
    return {trust.score for trust, q in zip(defined, benjamini_hochberg(p), strict=True) if q <= level}


def which_to_trust(net: Network, data: Any, check: Any, kinds: Sequence[str] | None = None, *, n: int = 64, seed: int = 0,
                   sites: Sequence[str] | None = None, dictionary: Any = None, progress: bool = False,
                   **options: Any) -> list[Verdict]:
    """The estimator table: for each kind of unit all scores that are defined for it, checked against the exact effect.

    data: what the scores are taken on; check: other data, on which the exact effect is measured. kinds: left out, those of
    layers, sublayers, heads and neurons that the network has by name, and channels where it has only layers; one of them
    that cannot be measured says why. n: on how many units of a kind; seed: of that sample. sites, dictionary: as for
    `units`. options: of the scores, such as `metric`, for each that has it.
    """
    from ..units import units
    chosen = list(kinds) if kinds else [kind for kind in USUAL if _has(net, kind)]
    if not kinds and not sites and chosen == ["layers"]:
        chosen.append("channels")  # a convolutional network has neither heads nor neurons by name
    if not chosen:
        raise ValueError(f"{net.name} has no units that Cutaway knows by name; give kinds= and sites= by module path, such as "
                         "kinds=['neurons'], sites=['fc1:out'].")
    found = []
    for kind in chosen:
        table = units(net, kind, sites=sites, dictionary=dictionary, data=data)
        try:
            found.append(verdict(table, data, check, n=n, seed=seed, progress=progress, **options))
        except ValueError as error:
            if kinds:
                raise
            found.append(Verdict(table, table.pick([]), {}, why=str(error)))
    if all(one.why for one in found):
        raise ValueError(found[0].why)
    return found


def verdict(table: Units, data: Any, check: Any, *, n: int = 64, seed: int = 0, progress: bool = False,
            **options: Any) -> Verdict:
    """The verdict on one table of units; see `which_to_trust`."""
    names, left_out = defined(table), dict[str, str]()
    taken = {option for name in names for option in find(name, "score").signature.parameters}
    if unknown := [option for option in options if option not in taken]:
        raise ValueError(f"there is no option {unknown[0]!r} of scores; there are {', '.join(sorted(taken - FIRST))}.")
    table = _scored(table, [name for name in names if name not in SHORT], data, left_out, progress, options)
    for name, parts in SHORT.items():
        if name in names:
            table = _scored(table, [name], data.take(max(1, data.n_tokens // parts)), left_out, progress, options)
    if not table.scores:
        raise ValueError(next(iter(left_out.values())))
    own = {name: value for name, value in options.items() if name in ("metric", "ref", "batch_size")}
    return replace(judged(table, check, n=n, seed=seed, progress=progress, **own), left_out=left_out)


def _scored(table: Units, names: list[str], data: Any, left_out: dict[str, str], progress: bool,
            options: dict[str, Any]) -> Units:
    """The table with these scores; those that the network does not allow are left out, with the reason."""
    takes = {option for name in names for option in find(name, "score").signature.parameters}
    given = {option: value for option, value in {"progress": progress, **options}.items() if option in takes}
    try:
        return table.add(run(table, names, data, **given))
    except ValueError as error:
        if len(names) == 1:
            left_out[names[0]] = str(error)
            return table
    for name in names:
        table = _scored(table, [name], data, left_out, progress, options)
    return table


def judged(table: Units, check: Any, **options: Any) -> Verdict:
    """The verdict on the scores that a table has already; options: those of `trusts`."""
    sample, found = compared(table, table.scores, check, **options)
    best_first = sorted(found, key=lambda name: -found[name].agreement if found[name].defined else 2)
    return Verdict(table, sample, {name: found[name] for name in best_first})


def estimators(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row for each kind and score: its agreement with the exact effect, the interval, n, and how far that repeats."""
    import pandas as pd
    return pd.DataFrame([{**asdict(trust), "words": trust.words()} for v in verdicts for trust in v.trusts.values()])


def _has(net: Network, kind: str) -> bool:
    try:
        sites_of(net, KINDS[kind])
    except ValueError:
        return False
    return True
