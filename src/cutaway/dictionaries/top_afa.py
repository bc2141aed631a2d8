"""top-AFA: each token uses as many latents as it takes for the norm of its code to match its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .parts import L1, Pass, SquaredError, auxiliary_terms, sparsifier
from .recipe import Recipe
from .steering import steer

if TYPE_CHECKING:
    from .dictionary import Dictionary


GAIN, SHARES = 0.3, (1e-4, 1e4)   # of a step of the share, and its bounds


@sparsifier("norm-matching")
@dataclass(frozen=True)
class NormMatching:
    """The largest positive pre-activations of a token, as many as bring the code's norm nearest to |x - b_dec|.

    With c_j = (z_j |W_dec_j|)^2 in falling order and C_m the sum of the first m, those of m = argmin |sqrt(C_m) - |x - b_dec||
    are kept (arXiv 2503.24277). That needs no k and no other token.
    """

    by_decoder: ClassVar[bool] = True

    def with_l0(self, l0: float, width: int) -> NormMatchingL0:
        return NormMatchingL0(l0)

    def share(self, count: Tensor, d: Dictionary, progress: float) -> Tensor:
        """What part of the latents that match each token's norm [n, 1] is kept."""
        return torch.ones(1, device=count.device)

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        values, indices = kernels.encode_positive(x, d.W_enc, d.b_enc, d.b_dec)
        with torch.no_grad():
            squares, order = (values * kernels.at(d.W_dec.norm(dim=1), indices)).pow(2).sort(dim=-1, descending=True)
            norm = (x - d.b_dec).norm(dim=-1, keepdim=True)
            count = (squares.cumsum(-1).sqrt() - norm).abs().argmin(-1, keepdim=True) + 1
            taken = (self.share(count, d, progress) * count).round().clamp(1, order.shape[1]).long()
            order = order[:, : int(taken.max()) if len(x) else 1]
            kept = torch.arange(order.shape[1], device=x.device) < taken
        return Codes(torch.where(kept, values.gather(-1, order), 0), indices.gather(-1, order), count)


@sparsifier("norm-matching-l0")
@dataclass(frozen=True)
class NormMatchingL0(NormMatching):
    """A part of as many as bring the code's norm nearest to |x - b_dec|, the same for all tokens, so that `l0` fire on average.

    In training the part is what each batch asks for; the finished dictionary's is `extra["share"]` [1], which is steered by how
    many it would make fire.
    """

    l0: float = 32.0

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"share": torch.zeros(1)}

    def share(self, count: Tensor, d: Dictionary, progress: float) -> Tensor:
        return d.extra["share"].detach() if progress >= 1 else self.l0 / count.float().mean().clamp(min=1e-6)

    def after(self, d: Dictionary, codes: Codes, progress: float) -> None:
        assert codes.aside is not None
        share, now = d.extra["share"].data, self.share(codes.aside, d, 0.0)
        share.copy_(torch.where(share > 0, share, now))
        # A batch's own part makes as many fire as that asks for, less where tokens have too few positive pre-activations.
        lost = float(codes.l0.float().mean() / (now * codes.aside).round().clamp(min=1).mean())
        steer(share, lost * float((share * codes.aside).round().clamp(min=1).mean()), self.l0, GAIN, SHARES)


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
    token on average; left out, as many as come of it. With it, tokens use a share of what matches their norm, the same for
    all, which is steered until so many fire. l1: weight of the L1 term, which the authors' code has and sets to zero. aux,
    dead_after, lr, initial: as for TopK.
    Differs from the authors' code: tokens are not standardised one by one, which would make all norms equal and nearly take
    away what the method adapts to; so the loss compares with |x - b_dec|, as the selection does, and not with |x|. The
    encoder has a bias.
    """
    if l0 is not None and not 0 < l0 <= width:
        raise ValueError(f"l0 is above 0 and at most the width {width}; found l0={l0}.")
    part = NormMatching() if l0 is None else NormMatchingL0(l0)
    losses = (SquaredError(), NormLoss(afa), *((L1(l1),) if l1 else ()), *auxiliary_terms(aux, dead_after))
    return Recipe("top-afa", width, part, losses, lr=lr, initial=initial)
