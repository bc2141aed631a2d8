"""How much each layer adds to the residual stream, and how much later layers and the output rest on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...catalogue import method
from ...network import At, Edit, Network
from ..places import skip
from ..reading import Limits
from .lens import compared, said_after
from .stream import checked, kept, stream

LEAST = 1e-6                    # the smallest size of a contribution that another is measured against
EVERY, AFTER, BEFORE = 8, 8, 4  # where a row may be cut: every 8 tokens, 8 from its start, 4 from its end


@dataclass(frozen=True)
class Effect:
    """What leaving out each block does: later [blocks, blocks], to the contributions of the blocks after it, output [blocks].

    later[s, l] is |contribution of l - the same with s left out| / |contribution of l|, nan for l <= s; output is the Euclidean
    distance of the probabilities. Each as the mean over tokens, and as the maximum that the paper shows.
    """

    later: Tensor
    later_max: Tensor
    output: Tensor
    output_max: Tensor
    n: int

    @property
    def on_later(self) -> Tensor:
        """The mean effect of each block on all blocks after it: [blocks - 1], for the last block has none."""
        return self.later[:-1].nanmean(1)


@dataclass(frozen=True)
class Lens:
    """What the network would say after each block, against what it says in the end: [blocks] each, mean over tokens.

    kl: the divergence KL(after the block | in the end), nats; top: the share of the five likeliest that are the same.
    """

    kl: Tensor
    top: Tensor


@dataclass(frozen=True)
class DepthUse:
    """contribution, cosine: by `block`, `attn` and `mlp`, a number for each block [blocks], mean over kept tokens.

    contribution is the size of what is added over the size of the residual stream that it is added to, cosine that between
    them: about 0 for new features, below 0 where some are erased, above 0 where they are amplified.
    whole: a block is left out at all tokens but the first. future: it is left out up to some token, and only later tokens are
    looked at. direct: what is taken out is a block's contribution to the input of one later block alone, [blocks, blocks] as
    in `Effect.later`: what the later block reads from it, and not by way of those between.
    erased: the effect on the output at later tokens when the residual stream after a block is its mean up to some token.
    lens: what the network would say after each block; none for a network without logits. n: kept tokens; rows: of the data.
    """

    contribution: dict[str, Tensor]
    cosine: dict[str, Tensor]
    whole: Effect
    future: Effect
    direct: Tensor
    erased: Tensor
    lens: Lens | None
    n: int
    rows: int

    @property
    def depth(self) -> float:
        """The mean number of a block, from 0, weighted by its effect on later blocks at future tokens (paper, section 6)."""
        effect = self.future.on_later.nan_to_num()
        return float((torch.arange(len(effect)) * effect).sum() / effect.sum().clamp(min=1e-12))


class Means:
    """Running mean and maximum of tensors of one shape."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.most: Tensor | None = None
        self.n = 0

    def add(self, values: Tensor) -> None:
        """values: [..., n], the last axis over what the mean is taken of."""
        if values.shape[-1]:
            most, self.n = values.amax(-1).cpu(), self.n + values.shape[-1]
            self.total = self.total + values.double().sum(-1).cpu()
            self.most = most if self.most is None else torch.maximum(self.most, most)

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total) / max(self.n, 1)


@method("depth-use", family="analysis", title="Use of depth: what layers add, and what later layers take from them",
        paper="Csordas et al. 2025, arXiv:2505.13898", roster="162")
@torch.no_grad()
def depth_use(net: Network, data: Any, *, cuts: int = 4, tokens: int | None = None, batch_size: int = 8,
              seed: int = 0) -> DepthUse:
    """Measure what each block adds to the residual stream, and what leaving it out does to later blocks and to the output.

    cuts: at how many drawn places each row is cut for the effects on future tokens. Effects on the output are nan for a
    network without logits. Raises ValueError for a network without a residual stream of tokens.

    Differs from the paper (sections 3 and 4): means over tokens beside its maxima, which grow with the number of tokens; the
    contribution of a block is the change of the residual stream, which for blocks with the norm first is attention plus MLP;
    the mean that erases is over the batch's kept tokens. Two of its analyses are left out: gradients integrated along the
    residual stream, which ask by an estimate what `future` and `erased` measure, and linear maps between networks of
    different depth, which are no fact about one network.
    """
    sites, blocks = stream(net), range(net.n_blocks)
    if net.n_blocks < 2:
        raise ValueError(f"{net.name} has {net.n_blocks} block, and it takes two for one to act on another.")
    added: dict[str, list[Means]] = {part: [Means() for _ in blocks] for part in ("block", "attn", "mlp")}
    angles: dict[str, list[Means]] = {part: [Means() for _ in blocks] for part in added}
    effects = {"whole": [(Means(), Means()) for _ in blocks], "future": [(Means(), Means()) for _ in blocks]}
    direct, erased, lens = ([Means() for _ in blocks] for _ in range(3))
    random, n, rows = torch.Generator().manual_seed(seed), 0, 0
    wanted = [*sites, *(name for i in blocks for part in ("attn", "mlp") if (name := f"blocks.{i}.{part}") in net.named)]
    for batch in Limits(tokens, batch_size).batches(data):
        batch = batch.to(net.device)
        seen = net.record(batch, [*wanted, *_said(net)])
        keep = kept(batch, checked(seen[sites[-1]], sites[-1]))
        n, rows = n + int(keep.sum()), rows + len(batch)
        for i in blocks:
            for part, before, change in _changes(seen, sites, i):
                added[part][i].add((change.norm(dim=-1) / before.norm(dim=-1).clamp(min=LEAST))[keep])
                angles[part][i].add(torch.cosine_similarity(change, before, dim=-1)[keep])
        place = torch.arange(keep.shape[1], device=keep.device)
        for name, left_out, looked_at in _ways(place, keep, cuts, random):
            for s in blocks:
                with net.edited(Edit(f"blocks.{s}", skip, (~left_out).float(), "b t")):
                    other = net.record(batch, [*sites, *_said(net)])
                _add(effects[name][s], seen, other, sites, looked_at)
                if name == "future" and "logits" in seen:
                    erased[s].add(_erased(net, batch, seen, keep, left_out, looked_at, s))
        for s in blocks:
            if s + 1 < net.n_blocks:
                direct[s].add(_direct(net, batch, seen, s, place > 0, keep))
            if "logits" in seen:
                both = torch.stack(compared(said_after(net, batch, s), seen["logits"]))
                lens[s].add(both[:, keep] if both.shape[1:] == keep.shape else both.flatten(1))
    if n == 0:
        raise ValueError(f"{data.name} holds no token that counts, so nothing can be measured.")
    return DepthUse({part: torch.stack([mean.mean for mean in means]) for part, means in added.items() if means[0].n},
                    {part: torch.stack([mean.mean for mean in means]) for part, means in angles.items() if means[0].n},
                    **{name: _effect(found) for name, found in effects.items()}, direct=_later(direct),
                    erased=_numbers([part.mean if part.n else None for part in erased]), lens=_lens(lens), n=n, rows=rows)


def _said(net: Network) -> list[str]:
    return ["logits"] if "logits" in net.named else []


def _changes(seen: dict[str, Tensor], sites: list[str], i: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is added in block i, and the residual stream that it is added to."""
    before, attn, mlp = seen[sites[i]], seen.get(f"blocks.{i}.attn"), seen.get(f"blocks.{i}.mlp")
    yield "block", before, seen[sites[i + 1]] - before
    if attn is not None:
        yield "attn", before, attn
    if mlp is not None:
        yield "mlp", before if attn is None else before + attn, mlp


def _ways(place: Tensor, keep: Tensor, cuts: int, random: torch.Generator) -> Iterator[tuple[str, Tensor, Tensor]]:
    """At which tokens a block is left out and at which its effect is looked at: bool [b, t] each. The first token is never."""
    later = (place > 0).expand_as(keep)
    yield "whole", later, keep & later
    length = len(place)
    choices = torch.arange(AFTER, length - BEFORE, EVERY) if length - BEFORE > AFTER else torch.tensor([length // 2])
    for _ in range(cuts):
        drawn = choices[torch.randint(len(choices), (len(keep), 1), generator=random)].to(place.device)
        yield "future", later & (place <= drawn), keep & (place > drawn)


def _erased(net: Network, batch: Any, seen: dict[str, Tensor], keep: Tensor, left_out: Tensor, looked_at: Tensor,
            s: int) -> Tensor:
    """How far the probabilities at some tokens move when the stream after a block is its mean at others: [tokens]."""
    mean = seen[f"blocks.{s}"][keep].mean(0)
    with net.edited(Edit(f"blocks.{s}", lambda z, at: mean, (~left_out).float(), "b t")):
        return _apart(seen["logits"], net.record(batch, "logits")["logits"], looked_at)


def _direct(net: Network, batch: Any, seen: dict[str, Tensor], s: int, later: Tensor, keep: Tensor) -> Tensor:
    """How each later block's contribution moves without the contribution of block s in its own input: [later blocks, tokens].

    One pass does for all of them: the stream after each block is measured and then put back to what the next is to read.
    """
    before = seen["embed" if s == 0 else f"blocks.{s - 1}"]
    given = (seen[f"blocks.{s}"] - before) * later[:, None]
    moved: list[Tensor] = []

    def between(i: int) -> Callable[[Tensor, At], Tensor]:
        def touch(x: Tensor, at: At) -> Tensor:
            if i > s:
                read = seen[f"blocks.{i - 1}"]
                change = seen[f"blocks.{i}"] - read
                moved.append((change - (x - (read - given))).norm(dim=-1) / change.norm(dim=-1).clamp(min=LEAST))
            return seen[f"blocks.{i}"] - given
        return touch

    with net.watched({f"blocks.{i}": between(i) for i in range(s, net.n_blocks)}):
        net.forward(batch)
    return torch.stack(moved)[:, keep & later]


def _apart(said: Tensor, other: Tensor, looked_at: Tensor) -> Tensor:
    """The Euclidean distance of two predictions' probabilities at some tokens; of each row where there is one a row."""
    apart = (said.float().softmax(-1) - other.float().softmax(-1)).norm(dim=-1)
    return apart[looked_at] if apart.shape == looked_at.shape else apart


def _add(means: tuple[Means, Means], seen: dict[str, Tensor], other: dict[str, Tensor], sites: list[str],
         looked_at: Tensor) -> None:
    steps = []
    for a, b in zip(sites, sites[1:], strict=False):
        change = seen[b] - seen[a]
        moved = (change - (other[b] - other[a])).norm(dim=-1) / change.norm(dim=-1).clamp(min=LEAST)
        steps.append(moved[looked_at])
    means[0].add(torch.stack(steps))
    if "logits" in seen:
        means[1].add(_apart(seen["logits"], other["logits"], looked_at))


def _effect(found: list[tuple[Means, Means]]) -> Effect:
    blocks, nan = len(found), torch.tensor(float("nan"))
    after = torch.ones(blocks, blocks).triu(1).bool()

    def rows(values: list[Tensor | None]) -> Tensor:
        return torch.stack([torch.full((blocks,), float("nan")) if v is None else v.float() for v in values]).where(after, nan)

    return Effect(rows([a.mean if a.n else None for a, _ in found]), rows([a.most for a, _ in found]),
                  _numbers([b.mean if b.n else None for _, b in found]), _numbers([b.most for _, b in found]), found[0][0].n)


def _numbers(values: list[Tensor | None]) -> Tensor:
    """One number a block, nan where nothing was measured."""
    return torch.stack([torch.tensor(float("nan")) if v is None else v.float() for v in values])


def _later(direct: list[Means]) -> Tensor:
    """Means over the blocks after each one as a square table, nan elsewhere."""
    blocks = len(direct)
    table = torch.full((blocks, blocks), float("nan"))
    for s, means in enumerate(direct[:-1]):
        if means.n:
            table[s, s + 1:] = means.mean.float()
    return table


def _lens(found: list[Means]) -> Lens | None:
    if not all(part.n for part in found):
        return None
    kl, top = torch.stack([part.mean.float() for part in found], 1)
    return Lens(kl, top)
