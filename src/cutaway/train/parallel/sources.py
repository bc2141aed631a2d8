"""Where the batches of one rank of many come from: its own rows of the data, or its own part of a harvest's batches."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Batch
from ...dictionaries.wiring import tensors_of
from ...harvest import Harvest
from ...network import Network
from ..buffer import ShuffleBuffer
from ..sources import FromHarvest, FromNetwork, Source, State, Turn
from .group import Group


@dataclass(frozen=True)
class Stripe:
    """The saved state of one rank's source: its facts, how many rows each of its tensors has, and what reads one of them."""

    facts: dict[str, Any]
    rows: dict[str, int]
    read: Callable[[str], Tensor]


class Striped:
    """Every `size`-th row of data, from row `rank` of each order on: what one rank reads, so that no row is read twice."""

    def __init__(self, data: Any, group: Group):
        if data.n_rows < group.size:
            raise ValueError(f"{data.name} has {data.n_rows} rows, too few for {group.size} ranks; start at most as many ranks "
                             "as there are rows.")
        self.data, self.group, self.name = data, group, data.name
        self.n_rows = len(range(group.rank, data.n_rows, group.size))

    def batches(self, batch_size: int = 16, start: int = 0, stop: int | None = None,
                seed: int | None = None) -> Iterator[Batch]:
        """As of all data; start and stop count this rank's own rows."""
        n = self.data.n_rows
        order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
        order = order[self.group.rank:: self.group.size][start:stop]
        return (self.data.rows(order[i: i + batch_size]) for i in range(0, len(order), batch_size))


class NetworkPart(FromNetwork):
    """Activations that the network makes of this rank's rows; the shuffle buffers of all ranks are as large as one alone."""

    def __init__(self, net: Network, data: Any, sites: list[str], total: int, batch: int, seed: int, group: Group):
        super().__init__(net, data, sites, total, batch, seed)
        if group.size == 1:
            return
        self.data = Striped(data, group)
        for site in sites:
            self.samples[site] = group.copied(self.samples[site])
            limits = group.copied(torch.tensor(self.max_norm[site], dtype=torch.float64))
            self.max_norm[site] = tuple(limits.tolist())
            shuffling = torch.Generator().manual_seed(zlib.crc32(f"{site} {seed} {group.rank}".encode()))
            self.buffers[site] = ShuffleBuffer(self.buffers[site].capacity // group.size, batch // group.size, shuffling)


class HarvestPart(FromHarvest):
    """This rank's part of each of a harvest's batches, which are the same as those of a process alone.

    sites: those that decide which tokens count. part: which of how many equal parts of a batch. read: the sites wanted.
    """

    def __init__(self, harvest: Harvest, sites: list[str], batch: int, seed: int, group: Group, part: tuple[int, int],
                 read: list[str]):
        super().__init__(harvest, read, batch, seed)
        self.counting, self.part = sorted({name for place in sites for name in tensors_of(place)}), part

    def batches(self) -> Iterator[tuple[dict[str, Tensor], int]]:
        return self.harvest.batches(self.counting, self.batch, self.seed, self.position, self.epoch, self.part, self.tensors)


class Aligned:
    """A source in turns of one batch at each site, so that all ranks can take their steps together.

    whole: give each rank the batches of all ranks, one after another. Batches that wait for their turn are part of the state.
    """

    def __init__(self, source: FromNetwork | FromHarvest, group: Group, whole: bool):
        self.source, self.group, self.whole = source, group, whole
        self.samples, self.widths, self.max_norm = source.samples, source.widths, source.max_norm
        self.waiting: dict[str, deque[Tensor]] = {site: deque() for site in source.sites}

    def turns(self) -> Iterator[Turn]:
        turns = self.source.turns()
        while True:
            while all(self.waiting.values()):
                turn = {site: waiting.popleft() for site, waiting in self.waiting.items()}
                yield {site: [self.group.stacked(x) if self.whole else x] for site, x in turn.items()}
            for site, batches in next(turns).items():
                self.waiting[site].extend(batches)

    def state(self) -> State:
        tensors, facts = self.source.state()
        return {**tensors, **{f"{site}|waiting": torch.cat(list(waiting)) for site, waiting in self.waiting.items() if waiting}
                }, {**facts, "waiting": {site: len(waiting) for site, waiting in self.waiting.items() if waiting}}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.source.load_state(tensors, facts)
        for site, n in facts.get("waiting", {}).items():
            self.waiting[site].extend(tensors[f"{site}|waiting"].chunk(n))

    def load_stripes(self, stripes: list[Stripe]) -> None:
        """Go on from the states of another number of ranks.

        What their buffers held is dealt out anew. Reading goes on behind the row that any of them had come to, so that none
        is read twice; the few rows before it that the others had not read yet are passed over.
        """
        if isinstance(self.source, FromHarvest):
            self.source.load_state({}, stripes[0].facts)
            return
        self.source.epoch, rows = max((s.facts["epoch"], s.facts["row"] * len(stripes)) for s in stripes)
        self.source.row = -(-rows // self.group.size)
        for site, buffer in self.source.buffers.items():
            x = _dealt(stripes, [f"{site}|held", f"{site}|waiting"], self.group)
            if len(x):
                surplus = -(-max(0, len(x) - buffer.capacity) // buffer.batch) * buffer.batch
                self.waiting[site].extend(x[:surplus].split(buffer.batch))
                buffer.load_state({"held": x[surplus:], "generator": buffer.generator.get_state()})


def _dealt(stripes: list[Stripe], names: list[str], group: Group) -> Tensor:
    """This rank's equal part of what all ranks held under some names; only what is needed is read."""
    held = [(stripe, name, stripe.rows[name]) for stripe in stripes for name in names if stripe.rows.get(name)]
    total = sum(n for _, _, n in held)
    first, last = (total * rank // group.size for rank in (group.rank, group.rank + 1))
    found, start = [torch.empty(0)], 0
    for stripe, name, n in held:
        if start < last and start + n > first:
            found.append(stripe.read(name)[max(0, first - start): last - start])
        start += n
    return torch.cat(found[1:] or found)


def striped_source(net: Network, data: Any, sites: list[str], total: int, batch: int, seed: int, group: Group,
                   whole: bool) -> Source:
    """The source of one of many ranks, which reads its own rows; whole: and is given the others' activations."""
    if isinstance(data, Harvest):
        data.check(net)
        part = HarvestPart(data, sites, batch, seed, group, (group.rank, group.size), sites)
        return Aligned(part, group, whole)
    return Aligned(NetworkPart(net, data, sites, total, batch, seed, group), group, whole)
