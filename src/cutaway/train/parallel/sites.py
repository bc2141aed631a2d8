"""Dictionaries spread over ranks: each rank trains its own, from its own passes, which stop after its last site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...harvest import Harvest
from ...network import Network
from ..run import Run, load_dictionaries, save_dictionaries
from ..sources import Source, source_of
from .alone import Plan
from .group import Group
from .joined import Joined
from .sources import HarvestPart


class Sites(Joined):
    """Ranks that train different dictionaries, each as a process alone would."""

    split = "sites"

    def __init__(self, group: Group):
        super().__init__(group)
        self.stripes = 1   # all read the same rows

    def own(self, plan: Plan, batch: int) -> Plan:
        if len(plan) < self.group.size:
            raise ValueError(f"{len(plan)} dictionaries cannot be spread over {self.group.size} ranks; start at most "
                             f"{len(plan)}, or take split='data' or 'width'.")
        parts = spread([recipe.width for _, recipe in plan.values()], self.group.size)
        return {key: plan[key] for i, key in enumerate(plan) if parts[i] == self.group.rank}

    def source(self, net: Network, data: Any, sites: list[str], every: list[str], total: int, batch: int,
               seed: int) -> Source:
        if isinstance(data, Harvest):
            data.check(net)
            return HarvestPart(data, every, batch, seed, self.group, (0, 1), sites)
        return source_of(net, data, sites, total, batch, seed)

    def finish(self, run: Run, out: Path | None) -> None:
        assert out is not None   # as `own` has seen to
        save_dictionaries(run.dictionaries, out)
        run.history = {key: steps for some in self.group.objects(run.history) for key, steps in some.items()}
        if self.group.rank == 0:
            found = load_dictionaries(out)
            run.dictionaries = {key: found[key] for key in run.history}
        super().finish(run, out)


def spread(costs: list[int], size: int) -> list[int]:
    """The rank of each of some things in a row, so that neighbours stay together and ranks carry nearly the same cost.

    Each rank has at least one. A rank takes the next thing while that brings it nearer to its share of what is left.
    """
    ranks, rank, carried, left = [], 0, 0, sum(costs)
    for i, cost in enumerate(costs):
        share = left / (size - rank)
        must_go_on = len(costs) - i < size - rank
        if carried and rank < size - 1 and (must_go_on or carried + cost / 2 > share):
            left, carried, rank = left - carried, 0, rank + 1
        ranks.append(rank)
        carried += cost
    return ranks
