"""Which score to trust: every cheap score of every kind of unit against the exact effect, on a user's own network and data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..kinds import KINDS, sites_of
from ..network import Network
from .running import defined, run
from .trust import Trust, compared

if TYPE_CHECKING:
    import pandas as pd

    from ..units import Units

USUAL = ("layers", "sublayers", "heads", "neurons")
SHORT = {"path": 8}  # scores of many passes, which are taken on the first of so many parts of the tokens


@dataclass(frozen=True)
class Verdict:
    """The scores of one kind of unit, each with its trust, and what that comes to.

    units: the table with all scores as columns; sample: some of its rows with the column `exact`, measured on the data of
    the check; trusts: by score, the best first and the undefined last.
    """

    units: Units
    sample: Units
    trusts: dict[str, Trust]

    @property
    def kind(self) -> str:
        return self.units.kind.name

    @property
    def best(self) -> Trust | None:
        """The score with the highest agreement that is above 0 beyond chance."""
        return next((trust for trust in self.trusts.values() if trust.defined and trust.low > 0), None)

    @property
    def words(self) -> str:
        """Which score to use."""
        best, any_defined = self.best, any(trust.defined for trust in self.trusts.values())
        if not any_defined:
            why = next(iter(self.trusts.values())).why if self.trusts else "no score is defined for them"
            return f"For {self.kind} nothing can be said, because {why}; measure them exactly."
        if best is None:
            few = min(self.trusts.values(), key=lambda trust: trust.repeats)
            noisy = few.repeats < 0.5
            more = f"; the exact effect itself repeats only {few.repeats:.2f} on so much data, so give it more" if noisy else ""
            return f"For {self.kind} none of the scores can be trusted on this data; measure them exactly{more}."
        as_good = [name for name, trust in self.trusts.items() if trust.defined and trust.agreement >= best.low][1:]
        beside = f" ({', '.join(as_good[:3])} cannot be told from it)" if as_good else ""
        sample = f"{best.agreement:.2f} [{best.low:.2f}, {best.high:.2f}] over {best.n} of {best.of:,} units"
        return f"For {self.kind} use {best.score}: its rank agreement with the exact effect is {sample}{beside}."


def which_to_trust(net: Network, data: Any, check: Any, kinds: Sequence[str] | None = None, *, n: int = 64, seed: int = 0,
                   sites: Sequence[str] | None = None, dictionary: Any = None, progress: bool = False,
                   **options: Any) -> list[Verdict]:
    """The estimator table: for each kind of unit all scores that are defined for it, checked against the exact effect.

    data: what the scores are taken on; check: other data, on which the exact effect is measured. kinds: left out, those of
    layers, sublayers, heads and neurons that the network has by name. n: on how many units of a kind; seed: of that sample.
    sites, dictionary: as for `units`. options: of the scores, such as `metric`, for each that has it.
    """
    from ..units import units
    chosen = list(kinds) if kinds else [kind for kind in USUAL if _has(net, kind)]
    if not chosen:
        raise ValueError(f"{net.name} has no units that Cutaway knows by name; give kinds= and sites= by module path, such as "
                         "kinds=['neurons'], sites=['fc1:out'].")
    found = []
    for kind in chosen:
        table = units(net, kind, sites=sites, dictionary=dictionary, data=data)
        found.append(verdict(table, data, check, n=n, seed=seed, progress=progress, **options))
    return found


def verdict(table: Units, data: Any, check: Any, *, n: int = 64, seed: int = 0, progress: bool = False,
            **options: Any) -> Verdict:
    """The verdict on one table of units; see `which_to_trust`."""
    names = [name for name in defined(table) if name not in SHORT]
    table = table.add(run(table, names, data, progress=progress, **options))
    for name, parts in SHORT.items():
        if name in defined(table):
            first = data.take(max(1, data.n_tokens // parts))
            table = table.add(run(table, [name], first, progress=progress, **options))
    return judged(table, check, n=n, seed=seed, progress=progress,
                  **{name: value for name, value in options.items() if name in ("metric", "ref", "batch_size")})


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
