"""BatchTopK: the largest latents of a whole batch, so that tokens may use more or fewer of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .jump import Jump
from .parts import SquaredError, auxiliary_terms, falling, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary

DECAY = 0.9    # of the running mean of the least activation that is kept; over more batches it lags behind a short training


@sparsifier("batch-topk")
@dataclass(frozen=True)
class BatchLargest:
    """The n * k largest pre-activations of n tokens, and of those the positive ones (arXiv 2412.06410, section 2.2).

    `extra["least"]` is the running mean of the smallest that is kept, which is the threshold of the finished dictionary.
    first: begin training with so many, and fall to k over its first half.
    """

    k: int
    first: int | None = None
    units: ClassVar[tuple[str, ...]] = ("least",)

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"least": torch.zeros(1)}

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        k = min(falling(self.k, self.first, progress), d.width)
        values, indices = kernels.encode_batch_topk(x, d.W_enc, d.b_enc, k, d.b_dec)
        return Codes(values.relu(), indices)

    def after(self, d: Dictionary, codes: Codes, progress: float) -> None:
        """Follow the threshold; the mean begins at the first batch's value."""
        fired = codes.values[codes.values > 0]
        if fired.numel():
            least, known = fired.amin(), d.extra["least"].data
            known.copy_(torch.where(known > 0, known.lerp(least, 1 - DECAY), least))

    def inference(self, d: Dictionary) -> Dictionary:
        """The dictionary as it is used: a token's codes do not depend on others (section 2.2, equation 5)."""
        return d.with_sparsifier(Jump(), {"threshold": d.extra["least"].expand(d.width).clone()})


@method("batch-topk", family="dictionary", title="BatchTopK sparse autoencoders", paper="arXiv 2412.06410")
def BatchTopK(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None, first: int | None = None,
              lr: float | None = None, initial: str = "data") -> Recipe:
    """The n * k largest latents of a batch of n tokens reconstruct it, so that k is only the mean.

    The finished dictionary has one threshold, the running mean of the least activation that was kept.

    width: latents. k: how many fire for each token on average. aux: weight of the auxiliary loss. dead_after: tokens of
    silence after which a latent is dead; left out, 2% of the training's tokens. first: begin with so many and fall to k
    over the first half of training. lr: Adam's learning rate; left out, by the scaling rule. initial: decoder rows from
    `data` or `random`.
    Differs from the authors' code: one scale for all tokens instead of standardising each.
    """
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after))
    return Recipe("batch-topk", width, BatchLargest(k, first), losses, lr=lr, initial=initial)
