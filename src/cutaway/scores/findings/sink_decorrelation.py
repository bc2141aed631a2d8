"""Attention sinks and massive activations: measured, and a penalty that keeps other tokens from becoming like the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...catalogue import method
from ...network import At, Network
from ..reading import Limits
from .stream import checked, kept, stream


@method("sink-decorrelation", family="analysis", title="Decorrelation from the begin token, against attention sinks",
        paper="arXiv 2510.22603", roster="174")
def sink_decorrelation(net: Network, batch: Any, *, begin: int = 0) -> tuple[Tensor, Tensor]:
    """One pass that gives the logits and the penalty to add to a training loss: the squared cosine with the begin token.

    The penalty is the mean over blocks but the last, and over rows, of the mean over kept tokens t of cos(h_begin, h_t)^2,
    with h the residual stream after the block; both are differentiable, also in the begin token's own state.
    begin: the position of the begin token. Raises ValueError for a network with fewer than two blocks or without logits.

    Differs from the released code: the tokens are those that count in the batch (`keep`), where the code takes the audio, video
    and prompt tokens and not the answer's.
    """
    sites = stream(net)[1:-1]
    if not sites or "logits" not in net.named:
        raise ValueError(f"{net.name} needs logits and at least two blocks for this penalty; it has {net.n_blocks} blocks.")
    seen = net.record(batch, [*sites, "logits"], grad=True)
    parts = []
    for site in sites:
        x = seen[site]
        others = kept(batch, x).clone()
        others[:, begin] = False
        cosine = torch.cosine_similarity(x[:, begin, None], x, dim=-1)
        parts.append(((cosine**2 * others).sum(1) / others.sum(1).clamp(min=1)).mean())
    return seen["logits"], torch.stack(parts).mean()


@dataclass(frozen=True)
class Sinks:
    """Attention sinks and massive activations, by block [blocks], means over rows of data.

    first: attention that the first token receives from the head that gives it the most, mean over the queries after it; other:
    the most that any other token of the row receives from some head, among those with enough queries after them.
    first_ratio, other_ratio: the largest |activation| of the first token and of the others, over the row's median |activation|.
    cosine: mean of the other tokens' cosine with the first.
    n: how many other tokens of a row, on average, receive more than `threshold` from some head.
    """

    first: Tensor
    other: Tensor
    first_ratio: Tensor
    other_ratio: Tensor
    cosine: Tensor
    n: float
    threshold: float
    rows: int


@torch.no_grad()
def sinks(net: Network, data: Any, *, threshold: float = 0.3, tokens: int | None = None, batch_size: int = 16) -> Sinks:
    """Measure the attention that the first and other tokens receive, and how far their activations stand out.

    A token is compared where at least a quarter of the row's tokens come after it, as the few queries of the last tokens say
    little. threshold: the mean attention from which a token counts as a sink.
    """
    sites = stream(net)
    patterns = [f"blocks.{i}.attn.pattern" for i in range(net.n_blocks)]
    if any(site not in net.named for site in patterns):
        raise ValueError(f"{net.name} has no attention patterns that Cutaway can open.")
    received: dict[int, Tensor] = {}

    def look(i: int) -> Callable[[Tensor, At], None]:
        def touch(pattern: Tensor, at: At) -> None:
            received[i] = _received(pattern.float(), net.kind == "causal").amax(1)
        return touch

    parts: dict[str, list[Tensor]] = {name: [] for name in ("first", "other", "first_ratio", "other_ratio", "cosine")}
    counts: list[Tensor] = []
    for batch in Limits(tokens, batch_size).batches(data):
        batch = batch.to(net.device)
        with net.watched({site: look(i) for i, site in enumerate(patterns)}):
            seen = net.record(batch, sites[1:])
        keep = kept(batch, seen[sites[-1]]).clone()
        keep[:, 0] = False
        length = keep.shape[1]
        if length < 8:
            raise ValueError(f"the rows of {data.name} have {length} tokens; sinks are looked for in rows of 8 or more.")
        if not bool(keep.any()):
            raise ValueError(f"{data.name} has rows without a token that counts, beside the first; leave them out.")
        able = keep & (torch.arange(length, device=keep.device) < length - length // 4)
        attention = torch.stack([received[i] for i in range(net.n_blocks)], 1)             # [b, blocks, t]
        others = attention.masked_fill(~able[:, None], 0.0)
        x = torch.stack([checked(seen[site], site).float() for site in sites[1:]], 1)       # [b, blocks, t, d]
        size, median = x.abs().amax(-1), x.abs().flatten(2).median(-1).values[..., None].clamp(min=1e-12)
        cosine = torch.cosine_similarity(x[:, :, :1], x, dim=-1) * keep[:, None]
        parts["first"].append(attention[..., 0])
        parts["other"].append(others.amax(-1))
        parts["first_ratio"].append(size[..., 0] / median[..., 0])
        parts["other_ratio"].append((size * keep[:, None]).amax(-1) / median[..., 0])
        parts["cosine"].append(cosine.sum(-1) / keep.sum(1, keepdim=True).clamp(min=1))
        counts.append((others.amax(1) > threshold).sum(-1).float())
    rows = torch.cat(counts)
    means = {name: torch.cat(values).mean(0).cpu() for name, values in parts.items()}
    return Sinks(**means, n=float(rows.mean()), threshold=threshold, rows=len(rows))


def _received(pattern: Tensor, causal: bool) -> Tensor:
    """Mean attention to each key [b, h, t] from the queries after it, or from all others where every query sees every key."""
    t = pattern.shape[-1]
    asks = ~torch.eye(t, dtype=torch.bool, device=pattern.device)
    asks = asks.tril() if causal else asks
    return (pattern * asks).sum(-2) / asks.sum(0).clamp(min=1)
