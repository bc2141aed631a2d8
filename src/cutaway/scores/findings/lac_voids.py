"""Void layers: blocks that a token passes without its norm growing as it did before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...catalogue import method
from ...metrics import row_loss
from ...network import Edit, Network
from ..places import skip
from .stream import checked, kept, stream


@dataclass(frozen=True)
class Voids:
    """active: bool [rows, tokens, blocks], whether a block is active for a token; the others are voids.

    ids: int64 [rows, tokens] of what was read, with what was generated; none for a network that reads no tokens.
    keep: bool [rows, tokens], the tokens that count; generated: which of the tokens the network wrote itself.
    """

    active: Tensor
    ids: Tensor | None
    keep: Tensor
    generated: Tensor
    alpha: float

    @property
    def prompt(self) -> Tensor:
        """The share of the data's tokens for which each block is active: [blocks]."""
        return self.active[self.keep & ~self.generated].float().mean(0)

    @property
    def generation(self) -> Tensor:
        """The share of the generated tokens for which each block is active: [blocks]; nan where nothing was generated."""
        return self.active[self.keep & self.generated].float().mean(0)

    def skips(self, rows: Any = slice(None)) -> list[Edit]:
        """Edits that leave each token's void blocks out, for a batch of these rows."""
        return gates(self.active[rows])

    def exits(self, rows: Any = slice(None)) -> list[Edit]:
        """Edits that leave out all blocks after each token's last active one, for a batch of these rows."""
        return gates(self.active[rows].flip(-1).cummax(-1).values.flip(-1))


def gates(active: Tensor) -> list[Edit]:
    """Edits that leave out the blocks of some tokens; active: bool [rows, tokens, blocks]."""
    return [Edit(f"blocks.{i}", skip, active[..., i].float(), "b t") for i in range(active.shape[-1])]


@torch.no_grad()
def loss_with(net: Network, data: Any, active: Tensor, batch_size: int = 16) -> float:
    """The mean loss of rows of data with each token's blocks left out that are not active: bool [rows, tokens, blocks]."""
    values = []
    for batch in data.batches(batch_size):
        with net.edited(gates(active[batch.rows])):
            values.append(row_loss(net, batch.to(net.device)))
    return float(torch.cat(values).mean())


def at_random(active: Tensor, random: np.random.Generator) -> Tensor:
    """For each token as many blocks active as there are, drawn from all blocks."""
    rank = torch.from_numpy(random.random(active.shape)).argsort(-1).argsort(-1)
    return rank < active.sum(-1, keepdim=True)


def active_blocks(norms: Tensor, alpha: float) -> Tensor:
    """Which blocks are active for each token, from the norms of its residual stream: [..., 1 + blocks] -> bool [..., blocks].

    Block l is void where its norm's change is below alpha * (largest - smallest change of the blocks before it).
    """
    change = norms.diff(dim=-1)
    before = change[..., :-1]
    spread = before.cummax(-1).values - before.cummin(-1).values
    threshold = torch.cat([torch.zeros_like(change[..., :1]), alpha * spread], -1)
    return change >= threshold


@method("lac-voids", family="analysis", title="Void layers by the change of the L2 norm (LAC)",
        paper="arXiv 2505.14467", roster="156")
@torch.no_grad()
def lac_voids(net: Network, data: Any, *, alpha: float = 0.8, generate: int = 0, prompt: int | None = None,
              temperature: float = 0.6, batch_size: int = 16, seed: int = 0) -> Voids:
    """Tell for each token of data, and of what the network writes after it, which blocks are void.

    alpha: how much of the widest change so far a block must add to be active. generate: how many tokens the network
    continues each row by, at a temperature (0: the likeliest token). prompt: how many tokens of each row it reads, all by
    default. Raises ValueError for a network without a residual stream of tokens.

    Differs from the released code: the first block's threshold is 0, which there is so for batches of one row and otherwise
    depends on the other rows; tokens are drawn from all of the distribution, not from its top 0.9; and a void is left out by
    `skips`, where the released code runs all blocks and reads the output after the last active one, nearest to `exits`.
    """
    sites = stream(net)
    if alpha < 0:
        raise ValueError(f"alpha is a share of the widest change, 0 or more; found {alpha}.")
    parts: list[tuple[Tensor, Tensor | None, Tensor, Tensor]] = []
    for number, batch in enumerate(data.batches(batch_size)):
        batch = batch.to(net.device)
        read: Any = batch
        ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, dict) else None
        start = None if ids is None else ids.shape[1]
        if prompt is not None or generate:
            ids, start = _continued(net, ids, prompt, generate, temperature, seed + number)
            read = {"input_ids": ids}
        seen = net.record(read, sites)
        norms = torch.stack([checked(seen[site], site).double().norm(dim=-1) for site in sites], -1)
        keep = kept(batch, seen[sites[0]]) if read is batch else _plain(net, ids, batch.keep)
        written = torch.arange(norms.shape[1], device=keep.device) >= (norms.shape[1] if start is None else start)
        parts.append((active_blocks(norms, alpha).cpu(), None if ids is None else ids.cpu(), keep.cpu(),
                      written.expand_as(keep).cpu()))
    if not parts:
        raise ValueError(f"{data.name} holds no rows, so there is nothing to look at.")
    active, texts, keeps, written_by = zip(*parts, strict=True)
    if not any(bool(keep.any()) for keep in keeps):
        raise ValueError(f"{data.name} holds no token that counts, so nothing can be measured.")
    ids = None if texts[0] is None else torch.cat(texts)
    return Voids(torch.cat(active), ids, torch.cat(keeps), torch.cat(written_by), alpha)


def _continued(net: Network, ids: Tensor | None, prompt: int | None, generate: int, temperature: float,
               seed: int) -> tuple[Tensor, int]:
    """The rows' prompts with what the network writes after them, and where that begins."""
    if ids is None or net.kind != "causal":
        raise ValueError(f"{net.name} does not write text, so there are prompts and generated tokens only for causal language "
                         "models; leave generate= and prompt= out.")
    start = ids.shape[1] if prompt is None else prompt
    if not 1 <= start <= ids.shape[1]:
        raise ValueError(f"a prompt is 1 to {ids.shape[1]} tokens of a row; found prompt={prompt}.")
    if net.context is not None and start + generate > net.context:
        raise ValueError(f"a prompt of {start} tokens and {generate} generated ones are more than the network's context of "
                         f"{net.context}; give a smaller prompt= or generate=.")
    ids = ids[:, :start]
    return (net.generate(ids, generate, temperature, seed) if generate else ids), start


def _plain(net: Network, ids: Tensor | None, keep: Tensor | None) -> Tensor:
    """The tokens that count, of prompts and of what was written: not special ones, nor what the data leaves out."""
    assert ids is not None
    special = [] if net.tokenizer is None else list(net.tokenizer.all_special_ids)
    plain = ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device))
    if keep is not None and keep.ndim == 2:
        both = np.minimum(ids.shape[1], keep.shape[1])
        written = plain[:, both:]
        plain = torch.cat([plain[:, :both] & keep[:, :both], written], 1)
    return plain
