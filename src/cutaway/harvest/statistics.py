"""Statistics of a harvest: sums over each shard while it is written, and what follows from them for the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..data import norm_limit
from .layout import STATISTICS, Manifest, shard_folder

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
SAMPLE = 2**20      # quantiles are of at most so many norms, evenly spread over the harvest


@dataclass(frozen=True)
class Statistics:
    """Of the activations at one site as the network gave them, sinks with them (the same as `observe.Moments`).

    mean, variance: float64 [d]; quantiles: of the norms, by share; max_norm: above it an activation is a sink
    (`data.norm_limit` of the norms); sinks: int64, the sorted numbers of the tokens above it.
    """

    n: int
    mean: Tensor
    variance: Tensor
    quantiles: dict[float, float]
    max_norm: float
    sinks: np.ndarray


class Sums:
    """Sums over one shard at one site: of x - origin and of its square, in float64, and every norm.

    origin: [d], near the mean, so that a large mean costs no digits.
    """

    def __init__(self, origin: Tensor):
        self.origin = origin
        self.first, self.second = (torch.zeros_like(origin, dtype=torch.float64) for _ in range(2))
        self.norms: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        y = x - self.origin
        self.first += y.sum(0, dtype=torch.float64)
        self.second += y.pow_(2).sum(0, dtype=torch.float64)
        self.norms.append(torch.linalg.vector_norm(x, dim=-1).cpu())

    def tensors(self, site: str) -> dict[str, Tensor]:
        return {f"{site}|first": self.first.cpu(), f"{site}|second": self.second.cpu(), f"{site}|norms": torch.cat(self.norms)}


def norms_of(folder: Path, manifest: Manifest, site: str) -> Iterator[Tensor]:
    """The norms at a site, shard by shard."""
    from safetensors import safe_open
    for number in range(len(manifest.shards)):
        with safe_open(str(shard_folder(folder, number) / STATISTICS), "pt") as file:
            yield file.get_tensor(f"{site}|norms")


def summed_up(folder: Path, manifest: Manifest, origins: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `statistics.safetensors` of a whole harvest holds, from the sums of its shards."""
    found: dict[str, Tensor] = {}
    sums = {site: [torch.zeros(facts["d"], dtype=torch.float64) for _ in range(2)] for site, facts in manifest.sites.items()}
    for number in range(len(manifest.shards)):
        tensors = load_file(shard_folder(folder, number) / STATISTICS)
        for site, (first, second) in sums.items():
            first += tensors[f"{site}|first"]
            second += tensors[f"{site}|second"]
    stride = -(-manifest.n // SAMPLE)
    for site, (first, second) in sums.items():
        shift = first / manifest.n
        found[f"{site}|mean"] = origins[site].double() + shift
        found[f"{site}|variance"] = (second / manifest.n - shift**2).clamp(min=0)
        sample = torch.cat([norms[::stride] for norms in norms_of(folder, manifest, site)])
        limit = norm_limit(sample[:, None])
        found[f"{site}|quantiles"] = torch.quantile(sample.double(), torch.tensor(QUANTILES, dtype=torch.float64))
        found[f"{site}|max_norm"] = torch.tensor([limit], dtype=torch.float64)
        found[f"{site}|sinks"] = torch.cat([(norms > limit).nonzero()[:, 0] + number * manifest.shard_tokens
                                            for number, norms in enumerate(norms_of(folder, manifest, site))])
    return found


def statistics_of(tensors: dict[str, Tensor], site: str, n: int) -> Statistics:
    """The statistics of one site from the file's tensors."""
    mean, variance, quantiles, limit, sinks = (
        tensors[f"{site}|{name}"] for name in ("mean", "variance", "quantiles", "max_norm", "sinks"))
    return Statistics(n, mean, variance, dict(zip(QUANTILES, quantiles.tolist(), strict=True)), limit.item(), sinks.numpy())
