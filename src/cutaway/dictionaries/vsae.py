"""The variational TopK autoencoder: latents are means of normals, which are held near a standard normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from .chance import chance
from .codes import Codes
from .parts import Pass, SquaredError, TopK, auxiliary_terms, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary

MOST, LOG_VARIANCES = 10.0, (-6.0, 2.0)   # bounds of means and log variances inside the divergence, as in the authors' code


@sparsifier("variational")
@dataclass(frozen=True)
class Sampled:
    """The k largest by magnitude of z = mu + sigma * normal noise, with mu = ReLU(W_enc (x - b_dec) + b_enc).

    sigma: 0 takes the means themselves; none learns one for each latent, exp(`extra["log_variance"]` / 2). Noise belongs to
    training: at progress 1 there is none. The codes' `aside` [n, 1] is the divergence of each token from the standard
    normal, over all latents and not only those that are kept; terms without a gradient are left out of it.
    """

    k: int
    sigma: float | None = 0.0

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"log_variance": torch.full((width,), -2.0)} if self.sigma is None else {}

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        z = F.linear(x - d.b_dec, d.W_enc, d.b_enc).relu()
        divergence = 0.5 * z.clamp(max=MOST).pow(2).sum(-1, keepdim=True)
        sigma: Tensor | float | None = self.sigma
        if sigma is None:
            log_variance = d.extra["log_variance"].clamp(*LOG_VARIANCES)
            divergence = divergence + 0.5 * (log_variance.exp() - 1 - log_variance).sum()
            sigma = (0.5 * log_variance).exp()
        if progress < 1 and self.sigma != 0:
            z = z + sigma * torch.randn(z.shape, generator=chance(x)).to(z.device)
        indices = z.detach().abs().topk(min(self.k, d.width), dim=-1, sorted=False).indices
        return Codes(z.gather(-1, indices), indices, divergence)

    def inference(self, d: Dictionary) -> Dictionary:
        """The dictionary as it is used: the means of the k largest, which is TopK."""
        return d.with_sparsifier(TopK(self.k), {})


@dataclass(frozen=True)
class Divergence:
    """beta times the divergence from the standard normal, warmed up linearly over the first `warmup` of the training."""

    beta: float
    warmup: float = 0.1

    def __call__(self, p: Pass) -> Tensor:
        assert p.codes.aside is not None
        share = p.risen(self.warmup)
        return self.beta * share * p.codes.aside.mean() / p.variance


@method("vsae", family="dictionary", title="Analysis of variational sparse autoencoders", paper="arXiv 2509.22994",
        roster="025")
def VSAE(width: int = 4096, k: int = 32, beta: float = 0.01, sigma: float | None = 0.0, aux: float = 1 / 32,
         dead_after: int | None = None, lr: float | None = None, initial: str = "data") -> Recipe:
    """TopK whose latents are means of normal distributions, held near the standard normal by a divergence.

    q(z | x) = N(mu(x), sigma^2), mu = ReLU(W_enc (x - b_dec) + b_enc); the k largest |z| reconstruct. loss = FVU + beta *
    KL(q | N(0, 1)) / var(x) + aux * AuxK. Without noise this is TopK with beta / 2 * |mu|^2 added, summed over all latents.

    width: latents. k: how many are kept. beta: weight of the divergence, warmed up over the first tenth of training.
    sigma: of the noise in training: 0, as all checkpoints of the authors were made; 1, as the paper writes; none learns it.
    In units in which the activations have variance 1 in the mean dimension. aux, dead_after, lr, initial: as for TopK.
    Differs from the authors' code: decoder rows have unit norm, without which the divergence is escaped by small codes and a
    large decoder; the decoder's bias is subtracted from the input; a learned variance is one for each latent, not a linear
    function of the token. The finished dictionary is TopK on the means, as there.
    """
    if sigma is not None and sigma < 0:
        raise ValueError(f"sigma is at least 0; found {sigma}.")
    losses = (SquaredError(), Divergence(beta), *auxiliary_terms(aux, dead_after))
    return Recipe("vsae", width, Sampled(k, sigma), losses, lr=lr, initial=initial)
