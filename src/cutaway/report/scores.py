"""What the page of `cutaway score` says, as plain data: for each kind of unit its scores, each with its trust."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Any

from ..metrics import Figure
from .contents import Agreement, ScoreMap
from .values import Missing, Shown
from .words import DASH, number

if TYPE_CHECKING:
    from ..scores import Trust, Verdict
    from ..units import Units

MAPS = 4  # maps of blocks by units that are drawn, of the scores that agree best


@dataclass(frozen=True)
class Trusted:
    """One score beside the exact effect: their rank agreement, how many of the top they share, and what that means."""

    name: str
    agreement: Shown
    shared: str
    said: str


@dataclass(frozen=True)
class Points:
    """Units by two scores, with their names."""

    x: list[float]
    y: list[float]
    names: list[str]


@dataclass(frozen=True)
class Kind:
    """The scores of one kind of unit.

    shown: the score that is drawn and by which units are ordered. maps: blocks by units; profile: (name, value, low, high) of
    units that are one a site; points: the sample by that score and by the exact effect. note: what the trust was measured by.
    """

    name: str
    one: str
    seen: str
    said: str
    shown: str
    maps: list[ScoreMap]
    profile: list[tuple[str, float, float, float]]
    points: Points | None
    trusts: list[Trusted]
    note: str
    agreement: Agreement | None
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class ScorePage:
    """All kinds of unit that one command scored."""

    title: str
    network: str
    data: str
    command: str
    seed: int
    kinds: list[Kind]
    finished: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def scores_page(verdicts: Sequence[Verdict], seen: Any, seed: int, top: int, versions: dict[str, str]) -> ScorePage:
    """The page of some verdicts. seen: the data that was scored on; top: how many units are listed."""
    net = verdicts[0].units.net
    return ScorePage(f"What matters in {net.name}", repr(net), f"{seen.name}, {seen.n_rows:,} rows, {seen.n_tokens:,} tokens",
                     " ".join(["cutaway", *sys.argv[1:]]), seed, [_kind(verdict, top) for verdict in verdicts],
                     time.strftime("%Y-%m-%d %H:%M"), versions)


def _kind(verdict: Verdict, top: int) -> Kind:
    table, first, shown = verdict.units, next(iter(verdict.trusts.values())), verdict.shown
    best = [name for name, trust in verdict.trusts.items() if trust.defined] or [shown]
    points = None
    if shown != "exact":
        x, y = (verdict.sample.column(name).tolist() for name in (shown, "exact"))
        points = Points(x, y, named(verdict.sample))
    profile = [] if table.kind.axis else [(name, float(value), nan, nan)
                                          for name, value in zip(named(table), table.column(shown), strict=True)]
    names = [name for name, trust in verdict.trusts.items() if trust.defined]
    columns, rows = listed(verdict, top)
    sample = f"all {first.n}" if first.n == first.of else f"{first.n} of {first.of:,}"
    return Kind(
        table.kind.name, table.kind.name.removesuffix("s"), f"{table.title()}. {'. '.join(table.notes())}.", verdict.words,
        shown,
        [ScoreMap(name, grid) for name in best[:MAPS] if (grid := block_map(table, name))], profile, points,
        [_trusted(trust) for trust in verdict.trusts.values()],
        f"How far each score agrees with the exact effect over {sample} {verdict.kind}: {first.metric} on "
        f"{'the same data' if first.same_data else 'other data'}, {first.data} ({first.rows:,} rows, {first.tokens:,} tokens), "
        f"closed to {first.reference}; the exact effect repeats {number(first.repeats)} on so much data.",
        Agreement(names, table.agreement(names).to_numpy().tolist()) if len(names) > 2 else None, columns, rows)


def listed(verdict: Verdict, top: int) -> tuple[list[str], list[list[str]]]:
    """The units that matter most: where they are, the score that they are ordered by, and the next best beside it."""
    shown = verdict.units.top(verdict.shown, top).frame
    in_blocks = verdict.units.kind.axis == "u" and bool(shown["block"].notna().all())
    others = [name for name in verdict.trusts if name != verdict.shown]
    columns = [*(("block", "unit") if in_blocks else ("site", "unit")), verdict.shown, *others[:4]]
    return columns, [[number(value) if isinstance(value, float) else str(value) for value in row]
                     for row in shown[columns].itertuples(index=False)]


def named(table: Units) -> list[str]:
    """The units of a table by name, such as `block 3, head 5` or `blocks.3.mlp`."""
    sites, one = table.frame["site"], table.kind.name.removesuffix("s")
    if not table.kind.axis:
        return sites.tolist()
    places = [f"block {site.block}" if (site := table.sites[name]).block is not None else name for name in sites]
    return [f"{place}, {one} {unit}" for place, unit in zip(places, table.frame["unit"], strict=True)]


def block_map(table: Units, name: str) -> list[list[float]]:
    """A score as blocks by units, for whole tables of heads or experts with as many in every block; empty for others."""
    sites = list(table.sites)
    sizes = {table.sizes[site] for site in sites}
    if table.kind.name not in ("heads", "experts") or len(sizes) != 1:
        return []
    return table.frame.pivot(index="site", columns="unit", values=name).loc[sites].to_numpy().tolist()


def _trusted(trust: Trust) -> Trusted:
    if not trust.defined:
        return Trusted(trust.score, Missing("agreement", trust.why), DASH, "undefined")
    figure = Figure("agreement", trust.agreement, trust.low, trust.high, trust.n, of=trust.kind, data=trust.data,
                    seed=trust.seed)
    return Trusted(trust.score, figure, f"{trust.shared} of {trust.top}", trust.in_short)
