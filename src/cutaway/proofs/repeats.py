"""Sequences of random tokens that repeat, on which a network can only do well by induction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..network import Network


def repeated(net: Network, n: int, length: int, seed: int, repeat: bool = True) -> Tensor:
    """A begin token, `length` random tokens, and the same again (or others, with repeat=False): ids [n, 1 + 2 * length]."""
    generator = torch.Generator().manual_seed(seed)
    special = {int(i) for i in net.tokenizer.all_special_ids}
    plain = torch.tensor([i for i in range(len(net.tokenizer)) if i not in special])
    first, other = (plain[torch.randint(len(plain), (n, length), generator=generator)] for _ in range(2))
    begin = torch.full((n, 1), net.tokenizer.bos_token_id)
    return torch.cat([begin, first, first if repeat else other], 1)


def reordered(ids: Tensor, seed: int) -> Tensor:
    """The same sequences with the second half in a random order: the same tokens, and nothing to gain by induction."""
    half = ids.shape[1] // 2 + 1
    order = torch.rand(ids[:, half:].shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return torch.cat([ids[:, :half], ids[:, half:].gather(1, order)], 1)


@torch.no_grad()
def second_half_loss(net: Network, ids: Tensor) -> Tensor:
    """Mean next-token loss in nats of each row over its second half, but for that half's first token: [n]."""
    logits, half = net.logits({"input_ids": ids}), ids.shape[1] // 2 + 1
    losses = F.cross_entropy(logits[:, half - 1: -1].flatten(0, 1).float(), ids[:, half:].flatten(), reduction="none")
    return losses.view(len(ids), -1)[:, 1:].mean(1)
