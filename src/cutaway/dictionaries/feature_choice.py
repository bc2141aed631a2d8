"""Feature Choice: each feature takes the tokens that it fits best, as many as Zipf's law gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from ..kernels import reference
from .codes import Codes
from .jump import Jump
from .mutual_choice import AUXILIARY, MutualLargest, follow
from .parts import SquaredError, auxiliary_terms, sparsifier
from .recipe import Recipe
from .steering import steer
from .zipf import zipf

if TYPE_CHECKING:
    from .dictionary import Dictionary


GAIN, TRIMS = -0.1, (0.1, 10.0)   # of a step of what makes up for means of least affinities, and its bounds


def budgets(density: Tensor, n: int, k: int, shares: str) -> Tensor:
    """How many of n tokens each latent takes: [width] integers from 1 to n, k * n in all but for rounding and bounds."""
    p = zipf(density) if shares == "zipf" and bool((density > 0).any()) else torch.ones_like(density)
    p = p.clamp(min=torch.finfo(p.dtype).tiny)
    return (n * k * p / p.sum()).round().clamp(1, n).long()


@sparsifier("feature-choice")
@dataclass(frozen=True)
class FeatureLargest:
    """Mutual Choice for the first `switch` of training, then each latent's m_i best tokens of the batch (arXiv 2411.02124).

    shares: `zipf` gives m_i by the law fitted to `extra["density"]`, `uniform` the same to all. `extra["least"]` [width] is
    the running mean of the least affinity that each latent kept; times `extra["trim"]` [1], which is steered until k fire on
    average, its threshold in the finished dictionary: above a mean of least affinities less fires than was kept. The codes'
    `aside` [n, 1] is how many would fire by it.
    """

    k: int
    shares: str = "zipf"
    switch: float = 0.5
    units: ClassVar[tuple[str, ...]] = ("least",)

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"least": torch.zeros(width), "density": torch.zeros(width), "trim": torch.ones(1)}

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        if progress < self.switch or len(x) == 0:
            return MutualLargest(self.k)(x, d, progress)
        z = F.linear(x - d.b_dec, d.W_enc, d.b_enc)
        with torch.no_grad():
            take = budgets(d.extra["density"], len(x), self.k, self.shares)
            least = z.topk(int(take.max()), dim=0).values.gather(0, take[None] - 1)
            finished = (z > self.thresholds(d)).sum(-1, keepdim=True)
        return Codes(torch.where(z >= least, z, 0).relu(), reference.everything(len(z), d.width, z.device), finished)

    def thresholds(self, d: Dictionary) -> Tensor:
        """Of the finished dictionary: [width]."""
        return (d.extra["trim"] * d.extra["least"]).detach()

    def after(self, d: Dictionary, codes: Codes, progress: float) -> None:
        """Follow densities and each latent's least affinity; a latent that kept none in a batch leaves its own as it is."""
        follow(d.extra["density"].data, codes.counts(d.width) / max(1, len(codes.values)))
        known, fires = d.extra["least"].data, codes.values > 0
        now = torch.full_like(known, torch.inf).scatter_reduce(0, codes.indices[fires], codes.values[fires], "amin")
        moved = torch.where(known > 0, known.lerp(now, 0.1), now)
        known.copy_(torch.where(now < torch.inf, moved, known))
        if codes.aside is not None:
            steer(d.extra["trim"].data, float(codes.aside.float().mean()), self.k, GAIN, TRIMS)

    def inference(self, d: Dictionary) -> Dictionary:
        """The dictionary as it is used: one threshold for each latent, so that a token's codes do not depend on others."""
        return d.with_sparsifier(Jump(), {"threshold": self.thresholds(d)})


@method("feature-choice", family="dictionary", paper="arXiv 2411.02124",
        title="Adaptive sparse allocation: feature choice sparse autoencoders")
def FeatureChoice(width: int = 4096, k: int = 32, shares: str = "zipf", switch: float = 0.5, aux: float = 1 / 32,
                  auxiliary: str = "zipf", dead_after: int | None = None, lr: float | None = None,
                  initial: str = "data") -> Recipe:
    """Each latent is kept for the m_i tokens of a batch that it fits best, so that none is ever dead.

    Sum of m_i = n * k for a batch of n tokens; m_i falls with the latent's rank by Zipf's law. loss = FVU + aux * AuxZipf. The
    finished dictionary has one threshold for each latent, the running mean of the least affinity that it kept.

    width: latents. k: how many fire for each token on average. shares: of the n * k, `zipf` or `uniform`. switch: the share of
    training that Mutual Choice does first, from which the latents' ranks come. aux, auxiliary, dead_after, lr, initial: as for
    MutualChoice.
    Not known from the paper, and chosen here: the length of the first phase, the law's fit, that ranks follow running means
    of the densities, and the finished dictionary. Small batches force rare features to fire where they are not.
    """
    if shares not in ("zipf", "uniform") or auxiliary not in AUXILIARY:
        raise ValueError(f"shares are 'zipf' or 'uniform' and the auxiliary loss one of {', '.join(AUXILIARY)}; "
                         f"found {shares!r} and {auxiliary!r}.")
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after, AUXILIARY[auxiliary]))
    return Recipe("feature-choice", width, FeatureLargest(k, shares, switch), losses, lr=lr, initial=initial)
