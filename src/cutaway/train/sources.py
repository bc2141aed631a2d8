"""Where a training's activations come from: passes of the network as it trains, or a harvest on disk.

A source gives batches in turns, {place: [x [batch, d], ...]}, and a state from which it goes on exactly after a turn. A place
is a site, or several tensors of a token side by side in one row (see `dictionaries.wiring`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor

from ..data import below, norm_limit
from ..dictionaries.wiring import GRADIENT, tensors_of
from ..harvest import Harvest
from ..network import Network
from ..observe import Seen, activations, observe
from ..timing import part
from .buffer import ShuffleBuffer
from .gradients import with_gradients

SAMPLE = 16_384        # activations from which scales, biases and norms begin
BUFFER_BYTES = 256e6   # a shuffle buffer holds at most so much, and at most 65,536 activations

Turn = dict[str, list[Tensor]]
State = tuple[dict[str, Tensor], dict[str, Any]]


class Source(Protocol):
    """samples: {place: x [n, d]} from which training begins; widths: of the tensors that lie in a place's rows; max_norm: the
    norm of attention sinks in each of them."""

    samples: dict[str, Tensor]
    widths: dict[str, tuple[int, ...]]
    max_norm: dict[str, tuple[float, ...]]

    def turns(self) -> Iterator[Turn]: ...
    def state(self) -> State: ...
    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None: ...


class First:
    """The first n tokens that count at a place, attention sinks among them: x [n, sum of widths], and the widths."""

    def __init__(self, place: str, n: int):
        self.place, self.sites, self.n = place, tensors_of(place), n
        self.widths: tuple[int, ...] = ()
        self._parts: list[Tensor] = []

    @property
    def done(self) -> bool:
        return sum(map(len, self._parts)) >= self.n

    def update(self, seen: Seen) -> None:
        if not self.done:
            self.widths = tuple(seen.tensors[name].shape[-1] for name in self.sites)
            self._parts.append(rows_of(seen, self.place).clone())

    @property
    def x(self) -> Tensor:
        return torch.cat(self._parts)[: self.n]


class FromNetwork:
    """Activations as the network makes them, in rows of a new random order each epoch, mixed in a shuffle buffer."""

    def __init__(self, net: Network, data: Any, sites: list[str], total: int, batch: int, seed: int):
        self.net, self.data, self.sites, self.seed = net, data, sites, seed
        self.tensors = sorted({name for place in sites for name in tensors_of(place)})
        self.backward = any(name.startswith(GRADIENT) for name in self.tensors)
        self.epoch = self.row = 0
        self.samples, self.widths, self.max_norm, self.buffers = {}, {}, {}, {}
        for place, first in zip(sites, self._first(), strict=True):
            sample, widths = first.x, first.widths
            parts = list(zip(tensors_of(place), sample.split(widths, -1), strict=True))
            wrong = next((name for name, x in parts if not torch.isfinite(x).all()), None)
            if wrong is not None:
                raise ValueError(f"the activations at {wrong} hold NaN or infinity.")
            self.widths[place] = widths
            self.max_norm[place] = tuple(inf if name.startswith(GRADIENT) else norm_limit(x) for name, x in parts)
            x = self.samples[place] = without_sinks(sample, widths, self.max_norm[place])
            capacity = int(min(65_536, BUFFER_BYTES / (4 * x.shape[-1]), max(2 * batch, total // 4)))
            # By the place's name, so that it is shuffled in the same way whatever else is learned beside it.
            shuffling = torch.Generator().manual_seed(zlib.crc32(f"{place} {seed}".encode()))
            self.buffers[place] = ShuffleBuffer(capacity, batch, shuffling)

    def _first(self) -> list[First]:
        """The first tokens at each place."""
        found = [First(place, SAMPLE) for place in self.sites]
        if not self.backward:
            observe(self.net, self.data, found, seed=self.seed)
            return found
        for seen in with_gradients(self.net, self.data, self.tensors, seed=self.seed):
            for first in found:
                first.update(seen)
            if all(first.done for first in found):
                break
        return found

    def turns(self) -> Iterator[Turn]:
        while True:
            read = with_gradients if self.backward else activations
            passes = read(self.net, self.data, self.tensors, start=self.row, seed=self.seed + self.epoch)
            while True:
                with part("network"):
                    seen = next(passes, None)
                if seen is None:
                    break
                self.row = seen.next_row
                with part("shuffle"):
                    turn = {place: list(buffer.add(self._kept(seen, place))) for place, buffer in self.buffers.items()}
                yield turn
            self.epoch, self.row = self.epoch + 1, 0

    def _kept(self, seen: Seen, place: str) -> Tensor:
        return without_sinks(rows_of(seen, place), self.widths[place], self.max_norm[place])

    def state(self) -> State:
        held = {f"{site}|{name}": t for site, buffer in self.buffers.items() for name, t in buffer.state().items()}
        return held, {"epoch": self.epoch, "row": self.row}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.epoch, self.row = facts["epoch"], facts["row"]
        for site, buffer in self.buffers.items():
            start = f"{site}|"
            buffer.load_state({name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)})


class FromHarvest:
    """Activations of a harvest, in a random order of all of them each epoch; the network is not run."""

    def __init__(self, harvest: Harvest, sites: list[str], batch: int, seed: int):
        self.harvest, self.sites, self.batch, self.seed = harvest, sites, batch, seed
        self.epoch = self.position = 0
        self.tensors = sorted({name for place in sites for name in tensors_of(place)})
        if any(name.startswith(GRADIENT) for name in self.tensors):
            raise ValueError(f"the harvest in {harvest.folder} holds activations without gradients, which a recipe here needs; "
                             "give the text that it was made from.")
        self.samples, self.widths, self.max_norm = {}, {}, {}
        for place in sites:
            names = tensors_of(place)
            found = harvest.samples(names, SAMPLE)
            self.samples[place] = torch.cat([found[name] for name in names], -1) if len(names) > 1 else found[place]
            self.widths[place] = tuple(harvest.d(name) for name in names)
            self.max_norm[place] = tuple(harvest.max_norm(name) for name in names)

    def batches(self) -> Iterator[tuple[dict[str, Tensor], int]]:
        """What is left of this epoch's batches, by tensor, each with the position behind it."""
        return self.harvest.batches(self.tensors, self.batch, self.seed, self.position, self.epoch)

    def turns(self) -> Iterator[Turn]:
        while True:
            batches = self.batches()
            while True:
                with part("disk"):
                    found = next(batches, None)
                if found is None:
                    break
                x, self.position = found
                yield {place: [beside(x, tensors_of(place))] for place in self.sites}
            self.epoch, self.position = self.epoch + 1, 0

    def state(self) -> State:
        return {}, {"epoch": self.epoch, "position": self.position}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.epoch, self.position = facts["epoch"], facts["position"]


def beside(x: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    """Tensors [n, d] side by side, in one row for each token."""
    return x[names[0]] if len(names) == 1 else torch.cat([x[name] for name in names], -1)


def rows_of(seen: Seen, place: str) -> Tensor:
    """The tensors of a place for each token that counts, side by side: [n, sum of widths]."""
    x = {name: seen.kept(name) for name in tensors_of(place)}
    if len({len(one) for one in x.values()}) > 1:
        said = ", ".join(f"{len(one)} at {name}" for name, one in x.items())
        raise ValueError(f"tensors that are learned from together belong to the same tokens; found {said}.")
    return beside(x, tensors_of(place))


def without_sinks(x: Tensor, widths: Sequence[int], limits: Sequence[float]) -> Tensor:
    """The rows that have no attention sink in any of their tensors."""
    keeps = [below(one, limit) for one, limit in zip(x.split(tuple(widths), -1), limits, strict=True) if limit < inf]
    return x[torch.stack(keeps).all(0)] if keeps else x


def source_of(net: Network, data: Any, sites: list[str], total: int, batch: int, seed: int) -> Source:
    """The source that fits what was given as data."""
    if isinstance(data, Harvest):
        data.check(net)
        return FromHarvest(data, sites, batch, seed)
    return FromNetwork(net, data, sites, total, batch, seed)
