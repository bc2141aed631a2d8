"""Bilinear autoencoders: latents are quadratic forms, so that a latent can be a manifold where others are directions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..catalogue import method

WARMUP = 0.25     # of the training, over which the density penalty comes in
RATE, MOMENTUM = 0.03, 0.95


class Bilinear(nn.Module):
    """Latents f_j(x) = (left_j . x)(right_j . x) of x / |x|, and where there is a mix, h = mix f (arXiv 2510.16820).

    What is reconstructed is the product x x^T, by sum_j g_j left_j right_j^T with g = f, or g = mix^T h. left, right:
    [width, d]; mix: [forms, width] or None; importance: [width], the share of nested prefixes that each latent is in.
    """

    def __init__(self, d: int, width: int, forms: int | None = None, importance: Tensor | None = None):
        super().__init__()
        self.left, self.right = nn.Parameter(torch.zeros(width, d)), nn.Parameter(torch.zeros(width, d))
        self.mix = None if forms is None else nn.Parameter(torch.zeros(forms, width))
        self.register_buffer("importance", torch.ones(width) if importance is None else importance)
        self.importance: Tensor

    def latents(self, x: Tensor) -> Tensor:
        """x: [n, d] -> f: [n, width]."""
        x = F.normalize(x, dim=-1)
        return (x @ self.left.T) * (x @ self.right.T)

    def encode(self, x: Tensor) -> Tensor:
        """x: [n, d] -> h [n, forms], or f [n, width] without a mix. Their sign says nothing, nor does the sign of x show."""
        f = self.latents(x)
        return f if self.mix is None else f @ self.mix.T

    def overlaps(self) -> Tensor:
        """K [width, width]: the inner products (left_h . left_k)(right_h . right_k) of the latents' forms."""
        return (self.left @ self.left.T) * (self.right @ self.right.T)

    def errors(self, x: Tensor) -> Tensor:
        """|X_hat - X|^2 [n] with |X| = 1, averaged over prefixes by importance: g^T K g - 2 f . g + 1, by the kernel trick."""
        f, h = self.latents(x), self.encode(x)
        g = f if self.mix is None else h @ self.mix
        weight = torch.minimum(self.importance[:, None], self.importance)
        return ((g @ (self.overlaps() * weight)) * g).sum(1) - 2 * (self.importance * f * g).sum(1) + 1

    @torch.no_grad()
    def prefix_errors(self, x: Tensor, order: Tensor | None = None) -> Tensor:
        """The mean error [width] with the first 1, 2, ... latents alone, in their own or another order; without a mix."""
        if self.mix is not None:
            raise ValueError("prefixes are of latents without a mix.")
        order = torch.arange(len(self.left)) if order is None else order
        f = self.latents(x)[:, order]
        moments = f.T @ f / len(f)
        quadratic = (moments * self.overlaps()[order][:, order]).cumsum(0).cumsum(1).diagonal()
        return quadratic - 2 * moments.diagonal().cumsum(0) + 1

    @torch.no_grad()
    def forms(self) -> Tensor:
        """The symmetric matrices [forms or width, d, d] of which the latents are quadratic forms, from weights alone."""
        made = torch.einsum("jd,je->jde", self.left, self.right)
        if self.mix is not None:
            made = torch.einsum("fj,jde->fde", self.mix, made)
        return (made + made.transpose(1, 2)) / 2


def density(h: Tensor) -> Tensor:
    """Hoyer density [width] of latents over tokens, h [n, width]: 0 for one token alone, 1 for all tokens alike."""
    n = len(h)
    return (h.abs().sum(0) / h.norm(dim=0).clamp(min=1e-12) - 1) / (n**0.5 - 1)


class Losses(NamedTuple):
    """By step: the error in product space, and the mean density of the latents."""

    error: list[float]
    density: list[float]


@method("bilinear-ae", family="dictionary", title="Finding manifolds with bilinear autoencoders", paper="arXiv 2510.16820",
        roster="228")
def BilinearAE(x: Tensor, width: int = 1024, forms: int | None = None, ordered: bool = False, penalty: float = 0.1,
               steps: int = 1024, batch: int = 512, rate: float = RATE, seed: int = 0) -> tuple[Bilinear, Losses]:
    """Latents that are products of two directions reconstruct the activation's outer product with itself.

    loss = |X_hat - X|^2 + penalty * mean density; Muon with a rate that falls to 0.

    x: [n, d], activations, of which only the direction counts. width: rank-one latents. forms: mix them into so many
    quadratic forms of any rank, which are then the latents whose density is penalised (the paper's bottleneck; it takes
    2d). ordered: average the error over all prefixes of the latents, so that the first matter most. steps, batch:
    of training, each batch drawn at random. penalty: weight of the densities. rate: Muon's at the start. seed: of the start
    and the batches. Gives the model and its losses.
    Differs from the authors' code: densities are weighted by their place in the order as in its version of August 2025
    (later versions lose that), and products of two tiles are counted as its first version does.
    """
    if steps < 1 or not 1 <= batch <= len(x):
        raise ValueError(f"a batch is of 1 to {len(x)} activations, in at least one step; found batch={batch}, {steps} steps.")
    generator = torch.Generator().manual_seed(seed)
    d = x.shape[-1]
    importance = 1 - torch.arange(width) / width if ordered else None
    model = Bilinear(d, width, forms, importance)
    count = width if forms is None else forms
    # The mean over prefixes of the mean density inside them.
    tail = (1 / torch.arange(1, count + 1)).flip(0).cumsum(0).flip(0) if ordered else torch.ones(count)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.orthogonal_(parameter, generator=generator)
    optimizer = torch.optim.Muon(model.parameters(), lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=0.0)
    found = Losses([], [])
    for step in range(steps):
        part = x[torch.randint(len(x), (batch,), generator=generator)]
        error, rho = model.errors(part).mean(), density(model.encode(part))
        share = min(1.0, step / (WARMUP * steps))
        optimizer.zero_grad(set_to_none=True)
        (error + penalty * share * (rho * tail).mean()).backward()
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.step()
        found.error.append(float(error.detach()))
        found.density.append(float(rho.detach().mean()))
    return model.requires_grad_(False), found
