"""Adaptive temporal masking: a latent is kept with a chance that grows with what it was worth so far in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .chance import chance
from .codes import Codes
from .jump import Jump
from .parts import L1, SquaredError, auxiliary_terms, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary

DECAY, WARMUP, LEAST = 0.99, 0.1, 0.05   # of the running means; the share of training before masks; the last temperature
MEANS = ("magnitude", "frequency", "contribution")


@sparsifier("temporal-mask")
@dataclass(frozen=True)
class TemporalMask:
    """All positive pre-activations of the latents that a batch's mask keeps (arXiv 2510.08855; its formulas are inferred).

    Running means, `extra`: magnitude of a_j, frequency of a_j > 0, contribution a_j^2 |W_dec_j|^2. The score s_j is the mean of
    the three, each over its largest. p_j = sigmoid((s_j - tau) / (T sd(s))), tau = mean(s) + strictness * sd(s); masks are
    Bernoulli(p_j), one for all tokens of a batch. They begin after WARMUP of training, and the temperature T falls from 1
    with what is left of it, so that masks end as the finished dictionary's. timely: False draws from the same
    chances in a random order, the control without memory. The codes' `aside` is what the mask took from.
    """

    strictness: float = -0.5
    timely: bool = True

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {name: torch.zeros(width) for name in MEANS}

    def chances(self, d: Dictionary, progress: float = 0.0) -> Tensor:
        """p_j: [width]."""
        score = torch.stack([m / m.max().clamp(min=1e-12) for m in (d.extra[name].detach() for name in MEANS)]).mean(0)
        spread = score.std().clamp(min=1e-12)
        return torch.sigmoid(((score - score.mean()) / spread - self.strictness) / max(1 - progress, LEAST))

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        values, indices = kernels.encode_positive(x, d.W_enc, d.b_enc, d.b_dec)
        if not WARMUP <= progress < 1:
            return Codes(values, indices, values)
        drawn, p = chance(x), self.chances(d, progress).cpu()
        p = p if self.timely else p[torch.randperm(d.width, generator=drawn)]
        mask = (torch.rand(d.width, generator=drawn) < p).to(x.device)
        return Codes(torch.where(mask[indices], values, 0), indices, values)

    def after(self, d: Dictionary, codes: Codes, progress: float) -> None:
        """Follow the means, of what latents would do without the mask: else a masked one could not come back."""
        assert codes.aside is not None
        a, norms = codes.aside, d.W_dec.detach().norm(dim=1)[codes.indices]
        for name, part in zip(MEANS, (a, (a > 0).float(), (a * norms).pow(2)), strict=True):
            now = torch.zeros(d.width, device=a.device).index_add_(0, codes.indices.flatten(), part.flatten()) / max(1, len(a))
            d.extra[name].data.lerp_(now, 1 - DECAY)

    def inference(self, d: Dictionary) -> Dictionary:
        """The dictionary as it is used: the latents with p_j >= 1/2, always; without memory, all of them."""
        out = (self.chances(d) < 0.5) & self.timely
        return d.with_sparsifier(Jump(), {"threshold": torch.where(out, torch.inf, 0.0)})


@method("atm-sae", family="dictionary", roster="274", paper="arXiv 2510.08855",
        title="Time-aware feature selection: adaptive temporal masking for stable sparse autoencoder training")
def ATM(width: int = 4096, l1: float = 0.1, l0: float | None = None, strictness: float = -0.5, timely: bool = True,
        aux: float = 1 / 32, dead_after: int | None = None, lr: float | None = None, initial: str = "data") -> Recipe:
    """Latents are masked at random in training, the less often the more they have been worth.

    a = ReLU(W_enc (x - b_dec) + b_enc), z = a * mask, x_hat = z W_dec + b_dec; loss = FVU + l1 * |z|_1 / sd(x) + aux * AuxK.
    A mask has one entry for each latent, so how sparse a token is comes from ReLU and L1. The finished dictionary uses the
    latents whose chance is at least one half.

    width: latents. l1: weight of the L1 term. l0: how many should fire for each token on average; the weight is then steered
    until they do. strictness: how many standard deviations above the mean score a chance is one half. timely: False gives the
    same chances to random latents, a control. aux: weight of the auxiliary loss; dead_after, lr, initial: as for TopK.
    The paper's text that can be read names the three statistics, the threshold on them and the random mask; all formulas
    and constants here are inferred from that, and no code was published.
    """
    losses = (SquaredError(), L1(l1), *auxiliary_terms(aux, dead_after))
    return Recipe("atm-sae", width, TemporalMask(strictness, timely), losses, lr=lr, l0=l0, initial=initial)
