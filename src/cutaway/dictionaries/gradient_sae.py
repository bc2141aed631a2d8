"""Gradient SAE: TopK whose choice looks at what a latent does to the loss, and not only at how strongly it fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels
from ..catalogue import method
from ..network import Network
from .codes import Codes
from .dictionary import Dictionary, Facts
from .parts import SquaredError, auxiliary_terms, sparsifier
from .parts import TopK as TopKPart
from .recipe import Recipe
from .wiring import BESIDE, GRADIENT, Row, Wiring, several, sites_of


@dataclass(frozen=True)
class BesideGradient(Wiring):
    """Reads a site and the gradient of the loss there, and writes the site."""

    def places(self, net: Network, pattern: str) -> dict[str, str]:
        return {site.name: f"{site.name}{BESIDE}{GRADIENT}{site.name}" for site in sites_of(net, pattern)}

    def row(self, widths: tuple[int, ...]) -> Row:
        several(widths, 2, "gradient-sae learns from an activation and the gradient of the loss there")
        return Row(widths, (0, 1), (0,))

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: torch.Generator) -> Dictionary:
        return recipe.build(row.written(sample), generator, WithGradient)

    def empty(self, recipe: Recipe, row: Row, facts: Facts, limits: Sequence[float]) -> Dictionary:
        return Dictionary(row.widths[0], recipe.width, recipe.sparsify, replace(facts, site=facts.site.split(BESIDE)[0]))


class WithGradient(Dictionary):
    """A dictionary in training that reads activations [n, d], or activations with the gradient of the loss beside [n, 2 d]."""

    def encode(self, x: Tensor, progress: float = 1.0) -> Codes:
        if x.shape[-1] == self.d:
            return super().encode(x, progress)
        x, gradient = x.split(self.d, -1)
        part: Any = self.sparsify
        return chosen(self, x, gradient, part.k, part.beta)

    def centred(self, x: Tensor) -> Tensor:
        return x[:, : self.d] - self.b_dec


def chosen(d: Dictionary, x: Tensor, gradient: Tensor, k: int, beta: float) -> Codes:
    """The k latents with the largest z * (1 + beta * |D g| sqrt(d) / |g|), z = ReLU((x - b_dec) @ W_enc.T + b_enc), and their
    z.

    x, gradient: [n, d], g the gradient of the loss with respect to x; D: the decoder's rows, of norm 1, so that the second
    factor has a mean square near 1 for directions that have nothing to do with g. beta: infinity chooses by z * |D g| alone.
    Where g is zero, as for the last token of a text, this is TopK. No gradient flows through g.
    """
    size = gradient.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        effect = (gradient / size.clamp(min=torch.finfo(size.dtype).tiny)) @ d.W_dec.T * d.d**0.5
        weight = torch.where(size > 0, 1 + beta * effect.abs() if isfinite(beta) else effect.abs(), 1)

    def choose(on: ModuleType, x: Tensor, rows: Tensor, bias: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        z = F.linear(x, rows, bias)
        indices = (z.relu() * weight).topk(min(k, len(rows)), dim=-1, sorted=False).indices
        return z.gather(-1, indices), indices

    values, indices = kernels.encode_by(x, d.W_enc, d.b_enc, choose, d.b_dec)
    return Codes(values.relu(), indices)


@sparsifier("gradient-topk")
@dataclass(frozen=True)
class GradientTopK(TopKPart):
    """TopK whose choice is weighed by the gradient where that is known (see `chosen`); elsewhere it is TopK."""

    beta: float = 1.0

    def inference(self, d: Dictionary) -> Dictionary:
        """The dictionary as it is used, without gradients: TopK."""
        return d.with_sparsifier(TopKPart(self.k), {})


@method("gradient-sae", family="dictionary", roster="061", paper="arXiv 2411.10397",
        title="Features that Make a Difference: Leveraging Gradients for Improved Dictionary Learning")
def GradientSAE(width: int = 4096, k: int = 32, beta: float = 1.0, aux: float = 1 / 32, dead_after: int | None = None,
                lr: float | None = None, initial: str = "data") -> Recipe:
    """TopK that in training chooses latents by their activation and by what removing them would do to the network's loss.

    s = z * (1 + beta * |D g|), g = dL/dx scaled to norm sqrt(d) for each token; the k largest s are kept, with values z;
    x_hat = z D + b_dec; loss = FVU + aux * AuxK. L is the summed next-token loss of the text, and nothing is learned through
    g. z_i * (D_i g) is the first-order change of L when latent i is removed. Training runs the network backwards too, and
    takes text, not a harvest.

    width: latents. k: how many fire for each token. beta: weight of the gradient in the choice; 0 is TopK. aux, dead_after,
    lr, initial: as for TopK.
    The finished dictionary is TopK without gradients: with them, the next token, which the network is to predict, would take
    part in the choice (`cutaway.dictionaries.gradient_sae.chosen` does that). The paper's text gives the score; its scale, the
    loss and what is used at inference are not in what could be read of it and are choices made here.
    """
    if beta < 0:
        raise ValueError(f"beta is at least 0; found {beta}.")
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after))
    part = GradientTopK(k, None, beta)
    return Recipe("gradient-sae", width, part, losses, lr=lr, initial=initial, wiring=BesideGradient())
