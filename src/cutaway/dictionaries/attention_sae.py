"""Dictionaries of what an attention layer reads out: which heads write a latent, and from which tokens it comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..catalogue import method
from ..network import At, Network
from .dictionary import Dictionary


@dataclass(frozen=True)
class Sources:
    """Where a latent's pre-activation at one token comes from, exactly.

    parts: [heads, tokens], what each source token adds through each head; constant: what does not depend on the text;
    before: the pre-activation, which is the sum of both.
    """

    parts: Tensor
    constant: float
    before: float

    @property
    def by_head(self) -> Tensor:
        return self.parts.sum(1)

    @property
    def by_source(self) -> Tensor:
        return self.parts.sum(0)


@method("attention-sae", family="dictionary", title="Interpreting attention layer outputs with sparse autoencoders",
        paper="arXiv 2406.17759", roster="046")
def attention_sources(net: Network, dictionary: Dictionary, inputs: Any, latent: int, position: int, row: int = 0) -> Sources:
    """Say which source tokens, through which heads, make a latent of an attention layer fire (direct feature attribution).

    dictionary: of a site `blocks.{i}.attn.heads`, all heads' outputs side by side before the output projection; any recipe
    of `cutaway.learn` gives one. inputs: what the network reads; position, row: of the token at which the latent is asked.

    The outputs are linear in the attention pattern A once that is taken as given, so that A * d pre / d A adds up to the
    pre-activation without its constant: pre = sum_h sum_s A_h[t, s] (v_h[s] . W_enc[f, h]) + b_enc[f] - b_dec . W_enc[f].
    Raises ValueError for a dictionary of another kind of site.
    """
    block = _block(net, dictionary)
    kept: dict[str, Tensor] = {}

    def open_pattern(pattern: Tensor, at: At) -> Tensor:
        kept["pattern"] = pattern.detach().requires_grad_()
        return kept["pattern"]

    def keep(x: Tensor, at: At) -> None:
        kept["x"] = x

    with torch.enable_grad(), net.watched({f"{block}.attn.pattern": open_pattern, f"{block}.attn.heads": keep}):
        net.forward(inputs)
        weight = dictionary.W_enc[latent].detach()
        before = kept["x"][row, position] @ weight
        slope = torch.autograd.grad(before, kept["pattern"])[0]
    parts = (kept["pattern"] * slope)[row, :, position].detach()
    constant = float(dictionary.b_enc[latent] - dictionary.b_dec @ weight)
    return Sources(parts, constant, float(before.detach()) + constant)


def head_shares(dictionary: Dictionary, n_heads: int) -> Tensor:
    """How much of each latent every head writes, from the weights alone: [width, heads], rows sum to 1.

    w_h(f) = |W_dec[f, h]| / sum_h' |W_dec[f, h']| over the blocks of the decoder's row.
    """
    if dictionary.d % n_heads:
        raise ValueError(f"{n_heads} heads cannot share the {dictionary.d} dimensions of this dictionary.")
    norms = dictionary.W_dec.detach().unflatten(1, (n_heads, -1)).norm(dim=2)
    return norms / norms.sum(1, keepdim=True).clamp(min=1e-12)


def _block(net: Network, dictionary: Dictionary) -> str:
    site = dictionary.placed(net)
    if not site.name.endswith(".attn.heads"):
        raise ValueError("only a dictionary of attention heads has heads and sources to name; found one of "
                         f"{site.name}, and blocks.{site.block or 0}.attn.heads would be such a site.")
    return site.name.removesuffix(".attn.heads")
