"""Zipf's law of how often features fire: what a feature of a rank should reach, and a loss for those that do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .parts import AuxK, Pass

SHIFTS = tuple(float(2**i - 1) for i in range(9))   # the shifts b that are tried


def zipf(density: Tensor) -> Tensor:
    """The density that the law C / (rank + b)^a expects of each latent at its own rank: [width]; zeros where nothing fires.

    density: [width], how often each fires. log C and a are least squares in logarithms over the latents that fire, with
    ranks weighted by 1 / rank, so that each octave of ranks counts alike; b is the best of SHIFTS.
    """
    ordered, order = density.double().sort(descending=True)
    live = int((ordered > 0).sum())
    if live < 3:
        return torch.zeros_like(density)
    rank = torch.arange(1, len(density) + 1, dtype=torch.float64, device=density.device)
    weight, y = 1 / rank[:live] / (1 / rank[:live]).sum(), ordered[:live].log()
    x = (rank + torch.tensor(SHIFTS, dtype=torch.float64, device=density.device)[:, None]).log()
    spread = x[:, :live] - (x[:, :live] * weight).sum(-1, keepdim=True)
    centre = (weight * y).sum()
    slope = ((spread * (y - centre) * weight).sum(-1) / (spread.pow(2) * weight).sum(-1)).clamp(max=0)
    best = ((y - centre - slope[:, None] * spread).pow(2) * weight).sum(-1).argmin()
    law = centre + slope[best] * (x[best] - (x[best, :live] * weight).sum())
    return torch.zeros_like(density).scatter(0, order, law.exp().to(density.dtype))


@dataclass(frozen=True)
class AuxZipf(AuxK):
    """AuxK of the latents that are under-used, of which dead ones are the limit (arXiv 2411.02124, aux_zipf_loss).

    A latent is under-used where `dictionary.extra["density"]` is below `share` of what Zipf's law expects at its rank, or
    where it is dead. share: inferred; the paper's value is not known.
    """

    share: float = 0.1

    def dead(self, p: Pass) -> Tensor:
        density = p.dictionary.extra["density"].detach()
        return (density < self.share * zipf(density)).logical_or(p.silent >= self.dead_after).nonzero().flatten()
