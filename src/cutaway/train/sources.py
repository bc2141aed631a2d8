"""Where a training's activations come from: passes of the network as it trains, or a harvest on disk.

A source gives batches in turns, {site: [x [batch, d], ...]}, and a state from which it goes on exactly after a turn.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ..data import below, norm_limit
from ..harvest import Harvest
from ..network import Network
from ..observe import Sample, activations, observe
from ..timing import part
from .buffer import ShuffleBuffer

SAMPLE = 16_384        # activations from which scales, biases and norms begin
BUFFER_BYTES = 256e6   # a shuffle buffer holds at most so much, and at most 65,536 activations

Turn = dict[str, list[Tensor]]
State = tuple[dict[str, Tensor], dict[str, Any]]


class Source(Protocol):
    """samples: {site: x [n, d]} from which training begins; max_norm: {site: the norm of attention sinks}."""

    samples: dict[str, Tensor]
    max_norm: dict[str, float]

    def turns(self) -> Iterator[Turn]: ...
    def state(self) -> State: ...
    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None: ...


class FromNetwork:
    """Activations as the network makes them, in rows of a new random order each epoch, mixed in a shuffle buffer."""

    def __init__(self, net: Network, data: Any, sites: list[str], total: int, batch: int, seed: int):
        self.net, self.data, self.sites, self.seed = net, data, sites, seed
        self.epoch = self.row = 0
        found = [Sample(site, SAMPLE) for site in sites]
        observe(net, data, found, seed=seed)
        self.samples, self.max_norm, self.buffers = {}, {}, {}
        for site, sample in zip(sites, found, strict=True):
            if not torch.isfinite(sample.x).all():
                raise ValueError(f"the activations at {site} hold NaN or infinity.")
            self.max_norm[site] = norm_limit(sample.x)
            x = self.samples[site] = sample.x[below(sample.x, self.max_norm[site])]
            capacity = int(min(65_536, BUFFER_BYTES / (4 * x.shape[-1]), max(2 * batch, total // 4)))
            # By the site's name, so that a site is shuffled in the same way whatever else is learned beside it.
            shuffling = torch.Generator().manual_seed(zlib.crc32(f"{site} {seed}".encode()))
            self.buffers[site] = ShuffleBuffer(capacity, batch, shuffling)

    def turns(self) -> Iterator[Turn]:
        while True:
            passes = activations(self.net, self.data, self.sites, start=self.row, seed=self.seed + self.epoch)
            while True:
                with part("network"):
                    seen = next(passes, None)
                if seen is None:
                    break
                self.row = seen.next_row
                with part("shuffle"):
                    turn = {site: list(buffer.add(seen.kept(site, self.max_norm[site])))
                            for site, buffer in self.buffers.items()}
                yield turn
            self.epoch, self.row = self.epoch + 1, 0

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
        self.samples = {site: harvest.sample(site, SAMPLE) for site in sites}
        self.max_norm = {site: harvest.max_norm(site) for site in sites}

    def turns(self) -> Iterator[Turn]:
        while True:
            batches = self.harvest.batches(self.sites, self.batch, self.seed, self.position, self.epoch)
            while True:
                with part("disk"):
                    found = next(batches, None)
                if found is None:
                    break
                x, self.position = found
                yield {site: [x[site]] for site in self.sites}
            self.epoch, self.position = self.epoch + 1, 0

    def state(self) -> State:
        return {}, {"epoch": self.epoch, "position": self.position}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.epoch, self.position = facts["epoch"], facts["position"]


def source_of(net: Network, data: Any, sites: list[str], total: int, batch: int, seed: int) -> Source:
    """The source that fits what was given as data."""
    if isinstance(data, Harvest):
        data.check(net)
        return FromHarvest(data, sites, batch, seed)
    return FromNetwork(net, data, sites, total, batch, seed)
