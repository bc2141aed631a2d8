"""GroupMax: the largest latent of each of k groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .parts import SquaredError, auxiliary_terms, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("group-max")
@dataclass(frozen=True)
class GroupLargest:
    """The largest pre-activation of each of k contiguous groups of latents, where it is positive."""

    k: int

    def with_l0(self, l0: float, width: int) -> GroupLargest:
        return GroupLargest(groups(round(l0), width))

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        values, indices = kernels.encode_groups(x, d.W_enc, d.b_enc, self.k, d.b_dec)
        return Codes(values.relu(), indices)


def groups(k: int, width: int) -> int:
    """k, if so many groups of one size are possible; ValueError, with those that come nearest, if not."""
    if 1 <= k <= width and width % k:
        known = [n for n in range(1, width + 1) if width % n == 0]
        below, above = max(n for n in known if n < k), min(n for n in known if n > k)
        raise ValueError(f"{width} latents cannot be cut into {k} groups of one size; take {below} or {above} groups, or a "
                         f"width that {k} divides, such as {round(width / k) * k}.")
    return k


@method("group-max", family="dictionary", title="The groupmax activation of sparsify", paper="https://github.com/EleutherAI/sparsify")
def GroupMax(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None, lr: float | None = None,
             initial: str = "data") -> Recipe:
    """The largest latent of each of k groups reconstructs a token: cheaper to select than the k largest of all.

    width: latents, a multiple of k. k: groups; each token has at most one latent of each, so L0 can only be a number that
    divides the width. aux, dead_after, lr, initial: as for TopK.
    """
    losses = (SquaredError(), *auxiliary_terms(aux, dead_after))
    return Recipe("group-max", width, GroupLargest(groups(k, width)), losses, lr=lr, initial=initial)
