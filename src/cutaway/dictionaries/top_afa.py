"""top-AFA: each token uses as many latents as it takes for the norm of its code to match its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .parts import L1, AuxK, Pass, SquaredError, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("norm-matching")
@dataclass(frozen=True)
class NormMatching:
    """The largest positive pre-activations of a token, as many as bring the code's norm nearest to |x - b_dec|.

    With c_j = (z_j |W_dec_j|)^2 in falling order and C_m the sum of the first m, those of m = argmin |sqrt(C_m) - |x - b_dec||
    are kept (arXiv 2503.24277). That needs no k and no other token.
    """

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        values, indices = kernels.encode_positive(x, d.W_enc, d.b_enc, d.b_dec)
        with torch.no_grad():
            squares, order = (values * kernels.at(d.W_dec.norm(dim=1), indices)).pow(2).sort(dim=-1, descending=True)
            norm = (x - d.b_dec).norm(dim=-1, keepdim=True)
            count = (squares.cumsum(-1).sqrt() - norm).abs().argmin(-1, keepdim=True) + 1
            order = order[:, : int(count.max()) if len(x) else 1]
            kept = torch.arange(order.shape[1], device=x.device) < count
        return Codes(torch.where(kept, values.gather(-1, order), 0), indices.gather(-1, order))


@dataclass(frozen=True)
class NormLoss:
    """weight * mean (|z| - |x - b_dec|)^2: the norm of the code follows that of the token."""

    weight: float

    def __call__(self, p: Pass) -> Tensor:
        # The root of a code that is wholly zero has no gradient.
        norm = p.codes.values.pow(2).sum(-1).clamp(min=1e-12).sqrt()
        return self.weight * (norm - (p.x - p.dictionary.b_dec).norm(dim=-1)).pow(2).mean()


@method("top-afa", family="dictionary", roster="008", paper="arXiv 2503.24277",
        title="Evaluating and designing sparse autoencoders by approximating quasi-orthogonality")
def TopAFA(width: int = 4096, afa: float = 1 / 32, l0: float | None = None, l1: float = 0.0, aux: float = 1 / 32,
           dead_after: int | None = None, lr: float | None = None, initial: str = "data") -> Recipe:
    """Each token uses the largest latents, as many as bring the norm of its code nearest to the token's own norm.

    loss = FVU + afa * mean (|z| - |x - b_dec|)^2 + l1 * |z|_1 / sd(x) + aux * AuxK. For unit rows that are nearly orthogonal
    the code's norm is nearly the token's, which says how much should fire, so that there is no k to choose.

    width: latents. afa: weight of the norms' difference (1/32 in the paper's best runs). l0: how many should fire for each
    token on average; left out, as many as come of it. With it, the L1 term that the authors' code has but sets to zero is
    turned on, and its weight l1 steered. aux, dead_after, lr, initial: as for TopK.
    Differs from the authors' code: tokens are not standardised one by one, which would make all norms equal and nearly take
    away what the method adapts to; so the loss compares with |x - b_dec|, as the selection does, and not with |x|. The
    encoder has a bias.
    """
    steered = (L1(l1 or 0.01),) if l1 or l0 else ()
    losses = (SquaredError(), NormLoss(afa), *steered, *((AuxK(dead_after or 0, aux),) if aux else ()))
    return Recipe("top-afa", width, NormMatching(), losses, lr=lr, boost=12.0, l0=l0, initial=initial)
