"""AbsTopK: the latents of largest absolute value, signs kept, so that one latent holds both poles of a concept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .parts import SquaredError, auxiliary_terms, falling, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("abs-topk")
@dataclass(frozen=True)
class LargestMagnitude:
    """The k pre-activations of each token that are largest in absolute value, signs kept (arXiv 2510.00404)."""

    k: int
    first: int | None = None

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        k = min(falling(self.k, self.first, progress), d.width)
        return Codes(*kernels.encode_magnitude(x, d.W_enc, d.b_enc, k, d.b_dec))


@method("abstopk", family="dictionary", title="AbsTopK: rethinking sparse autoencoders for bidirectional features",
        paper="arXiv 2510.00404", roster="043")
def AbsTopK(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None, first: int | None = None,
            lr: float | None = None, initial: str = "data") -> Recipe:
    """The k latents of largest absolute value reconstruct a token, with their signs.

    u = W_enc (x - b_dec) + b_enc, z = u on the k largest |u| and 0 elsewhere, x_hat = z W_dec + b_dec: one proximal step of
    the problem with the constraint |z|_0 <= k. loss = FVU + aux * AuxK, whose dead latents are chosen by magnitude too.

    width: latents; fair to compare with TopK of twice the width. k: how many fire for each token. aux, dead_after, first,
    lr, initial: as for TopK.
    Differs from the authors' code, which keeps the k * n largest of a batch in training: here it is the paper's k a token.
    """
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after, signed=True))
    return Recipe("abstopk", width, LargestMagnitude(k, first), losses, lr=lr, initial=initial)
