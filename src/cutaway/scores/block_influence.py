"""How far a block or a sublayer turns the residual stream."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from .stream import Stream, of_blocks
from .sweep import shared


@method("block_influence", family="score", title="One less the cosine of the stream before and after", refuses=of_blocks,
        paper="Men et al. 2024, arXiv:2403.03853, eq. 1; for sublayers He et al. 2024, arXiv:2406.15786")
@shared(Stream)
def block_influence(before: Tensor, added: Tensor) -> Tensor:
    """1 - cos(x, x + what is added), mean over kept tokens.

    before, added: the stream and what is added to it, [tokens, d]. It does not see how long the stream is: a small addition
    that decides the output counts for little.
    """
    return 1 - F.cosine_similarity(before, before + added, dim=-1)
