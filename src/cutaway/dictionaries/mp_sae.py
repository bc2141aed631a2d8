"""MP-SAE: the encoder takes one feature at a time out of what is left, so that correlated features need not share one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .parts import SquaredError, auxiliary_terms, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("matching-pursuit")
@dataclass(frozen=True)
class Pursuit:
    """k steps of matching pursuit with the decoder's rows (arXiv 2506.03093, algorithm 1).

    r_0 = x - b_dec; at each step j = argmax_i D_i . r, z_j += D_j . r, r -= (D_j . r) D_j. It ends early where no row has a
    positive product with what is left. More steps than in training only lower the error: `replace(sparsify, k=...)`.
    least: a token is done when what is left has a smaller norm. once: and when a latent was chosen again.
    """

    by_decoder: ClassVar[bool] = True
    k: int
    least: float = 0.0
    once: bool = False

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        left, no_bias, values, indices = x - d.b_dec, torch.zeros_like(d.b_enc), [], []
        going = torch.ones_like(left[:, :1], dtype=torch.bool)
        for _ in range(self.k):
            value, index = kernels.encode_topk(left, d.W_dec, no_bias, 1)
            value = torch.where(going, value.relu(), 0)
            left = left - kernels.decode(value, index, d.W_dec)
            values.append(value)
            indices.append(index)
            if self.once:
                going = going & (value > 0) & (torch.cat(indices, 1)[:, :-1] != index).all(1, keepdim=True)
            if self.least or self.once:
                going = going & (left.norm(dim=1, keepdim=True) >= self.least)
                if not bool(going.any()):
                    break
        return merged(torch.cat(values, 1), torch.cat(indices, 1))


def merged(values: Tensor, indices: Tensor) -> Codes:
    """Codes in which a latent that was chosen again [n, k] has its values added up at its first place, and 0 elsewhere."""
    first = (indices[:, :, None] == indices[:, None, :]).to(torch.int8).argmax(2)
    return Codes(torch.zeros_like(values).scatter_add(1, first, values), indices)


@method("mp-sae", family="dictionary", title="From flat to hierarchical: extracting sparse representations with matching "
        "pursuit", paper="arXiv 2506.03093", roster="063")
def MatchingPursuit(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None,
                    lr: float | None = None, initial: str = "data") -> Recipe:
    """Each of k steps takes the feature that fits what is left best out of it, so that later ones depend on earlier ones.

    x_hat = b_dec + sum_t c_t D_j(t), c_t = D_j(t) . r_t (section 3); loss = FVU + aux * AuxK. The decoder is the encoder, its
    rows have unit norm, and gradients flow through all steps but not through the choices.

    width: latents. k: steps, in training and after it; a token has fewer latents where one is chosen again. aux, dead_after,
    lr, initial: as for TopK. Time and memory grow with k times the width.
    Differs from the authors' code: products must be positive to be chosen (as in their toy model, not in their vision
    runs), the number of steps is fixed (as in their vision runs), rows are set to norm 1 after each step of the optimizer,
    and dead latents learn by AuxK in place of a push along what is left over.
    """
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after))
    return Recipe("mp-sae", width, Pursuit(k), losses, tied=True, lr=lr, initial=initial)
