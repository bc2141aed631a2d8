"""GroupMax: the largest latent of each of k groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .parts import AuxK, SquaredError, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("group-max")
@dataclass(frozen=True)
class GroupLargest:
    """The largest pre-activation of each of k contiguous groups of latents, where it is positive."""

    k: int

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        values, indices = kernels.encode_groups(x, d.W_enc, d.b_enc, self.k, d.b_dec)
        return Codes(values.relu(), indices)


@method("group-max", family="dictionary", title="The groupmax activation of sparsify", paper="https://github.com/EleutherAI/sparsify")
def GroupMax(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None, lr: float | None = None,
             initial: str = "data") -> Recipe:
    """The largest latent of each of k groups reconstructs a token: cheaper to select than the k largest of all.

    width: latents, a multiple of k. k: groups. aux, dead_after, lr, initial: as for TopK.
    """
    if width % k:
        raise ValueError(f"{width} latents cannot be cut into {k} groups of one size; take a width that k divides.")
    losses = (SquaredError(), *((AuxK(dead_after or 0, aux),) if aux else ()))
    return Recipe("group-max", width, GroupLargest(k), losses, lr=lr, boost=12.0, initial=initial)
