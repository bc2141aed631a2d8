"""What a network would say if it ended earlier: its last norm and output on the residual stream after a block (logit lens)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...network import Edit, Network
from ..places import skip

LIKELIEST = 5


def said_after(net: Network, batch: Any, block: int) -> Tensor:
    """The logits when all blocks after one are left out."""
    with net.edited(Edit(f"blocks.{later}", skip) for later in range(block + 1, net.n_blocks)):
        return net.record(batch, "logits")["logits"]


def compared(early: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence KL(early | final) in nats, and the share of the five likeliest that are the same, of logits [..., u]."""
    before, after = early.float().log_softmax(-1), final.float().log_softmax(-1)
    n = min(LIKELIEST, final.shape[-1])
    top, wanted = (x.topk(n, dim=-1).indices for x in (before, after))
    shared = (top[..., None] == wanted[..., None, :]).any(-1).float().mean(-1)
    return (before.exp() * (before - after)).sum(-1), shared
