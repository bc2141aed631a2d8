"""What the network gets wrong: the loss of each token, row and image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..network import Network


def token_targets(batch: Any, kind: str) -> tuple[Tensor, Tensor]:
    """The targets of each prediction and which of them count: [b, t - 1] for causal, [b, t] for masked, [b] for images.

    A next-token prediction counts when its target is kept, so that no metric rests on begin, padding or other special
    tokens.
    """
    if kind == "causal":
        ids = batch.inputs["input_ids"][:, 1:]
        keep = batch.keep[:, 1:] if batch.keep is not None else torch.ones_like(ids, dtype=torch.bool)
        return ids, keep
    if batch.labels is None:
        raise ValueError(f"a network of kind {kind!r} has no loss on data without labels; give labels, or a metric= of "
                         "your own (a function of network and batch that returns one number a row).")
    return batch.labels, batch.labels != -100


def token_loss(logits: Tensor, batch: Any, kind: str) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats of each prediction and which of them count, in the shapes of `token_targets`."""
    targets, counts = token_targets(batch, kind)
    targets, counts = targets.to(logits.device), counts.to(logits.device)
    if kind == "causal":
        logits = logits[:, :-1]
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"the labels have the shape {list(targets.shape)}, but what a network of kind {kind!r} says here has "
                         f"{list(logits.shape)}, so there is no loss; give labels that fit, or a metric= of your own.")
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(precise.flatten(0, -2), targets.flatten().clamp(min=0), reduction="none")
    return losses.view(targets.shape) * counts, counts


def moved(net: Network, batch: Any) -> Tensor:
    """How far each row's output is from that of the network as it is, [b]: 1 - cosine, of encoders the mean over kept tokens.

    For networks without a loss, such as encoders. It is 0, with a gradient of 0, where nothing is edited, so that first-order
    scores say nothing of it.
    """
    now = net.logits(batch)
    with net.as_it_is(), torch.no_grad():
        before = net.logits(batch)
    apart = 1 - F.cosine_similarity(now.float(), before.float(), dim=-1)
    if apart.ndim == 1:
        return apart
    keep = torch.ones_like(apart) if batch.keep is None or batch.keep.shape != apart.shape else batch.keep.to(apart)
    return (apart * keep).flatten(1).sum(1) / keep.flatten(1).sum(1).clamp(min=1)


def row_loss(net: Network, batch: Any) -> Tensor:
    """Mean loss in nats of each row over the predictions that count: [b], differentiable."""
    losses, counts = token_loss(net.logits(batch), batch, net.kind)
    if losses.ndim == 1:
        return losses
    return losses.sum(1) / counts.sum(1).clamp(min=1)
