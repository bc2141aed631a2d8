"""How much a block or a sublayer adds to the residual stream."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .stream import Stream, of_blocks
from .sweep import shared


@method("relative_norm", family="score", title="Norm of what is added over the norm of the stream", refuses=of_blocks,
        paper="Csordas et al. 2025, arXiv:2505.13898, section 3")
@shared(Stream)
def relative_norm(before: Tensor, added: Tensor) -> Tensor:
    """The Euclidean norm of what is added over that of the stream it is added to, mean over kept tokens.

    before, added: the stream and what is added to it, [tokens, d]. The norm itself is the score `activation`.
    """
    return added.norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-30)
