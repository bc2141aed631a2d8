"""Matryoshka: each prefix of the latents is a dictionary of its own, so that general features come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..catalogue import method
from .batch_topk import BatchLargest
from .parts import Pass, auxiliary_terms
from .recipe import Recipe


@dataclass(frozen=True)
class Nested:
    """The mean squared error of the reconstructions from nested prefixes of the latents, as a share of the variance.

    ends: where the prefixes end; the last is the width (arXiv 2503.17547, equation 4).
    """

    ends: tuple[int, ...]

    def __call__(self, p: Pass) -> Tensor:
        d, codes = p.dictionary, p.codes
        total = p.error[0]
        for end in self.ends[:-1]:
            inside = replace(codes, values=torch.where(codes.indices < end, codes.values, 0))
            total = total + d.squared_error(inside, p.y)[0]
        return total / (len(self.ends) * len(p.x) * p.variance)


def ends(shares: Sequence[float], width: int) -> tuple[int, ...]:
    """Where prefixes end that are these shares of the width; the last is the width."""
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"prefixes are shares of the width, above 0 and at most 1; found {shares}.")
    return tuple(sorted({max(1, round(share * width)) for share in (*shares, 1.0)}))


@method("matryoshka", family="dictionary", title="Learning multi-level features with Matryoshka sparse autoencoders",
        paper="arXiv 2503.17547")
def Matryoshka(width: int = 4096, k: int = 32, shares: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1),
               aux: float = 1 / 32, dead_after: int | None = None, lr: float | None = None,
               initial: str = "data") -> Recipe:
    """BatchTopK whose loss is the mean over nested prefixes of the latents, each of which must reconstruct alone.

    width: latents. k: how many fire for each token on average, chosen once among all latents. shares: where prefixes end,
    as shares of the width. aux, dead_after, lr, initial: as for BatchTopK.
    Differs from the authors' code: prefixes are fixed shares, and no reconstruction from the bias alone is added.
    """
    losses = (Nested(ends(shares, width)), *auxiliary_terms(aux, dead_after))
    return Recipe("matryoshka", width, BatchLargest(k), losses, lr=lr, initial=initial)
