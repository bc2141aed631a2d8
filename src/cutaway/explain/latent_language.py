"""In which language a network thinks: what the unembedding reads in every layer, by language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..catalogue import method
from ..network import Network


@dataclass(frozen=True)
class Languages:
    """What the lens reads at the last position of each item, from the first block's output to the last block's.

    probability: by language, [blocks, items], of all the tokens with which the right word can begin; entropy: [blocks, items]
    in bits; energy: [blocks, items], how much of the residual stream is along unembedding rows at all.
    """

    probability: dict[str, np.ndarray]
    entropy: np.ndarray
    energy: np.ndarray

    def mean(self, language: str) -> np.ndarray:
        """The mean probability at each block: [blocks]."""
        return self.probability[language].mean(1)

    def error(self, language: str) -> np.ndarray:
        """Its standard error: [blocks]."""
        p = self.probability[language]
        return p.std(1, ddof=1) / p.shape[1] ** 0.5

    def lead(self, first: str, second: str, least: float = 1e-9) -> np.ndarray:
        """log(P(first) / P(second)) on average over items, in nats: [blocks]."""
        return np.log((self.probability[first] + least) / (self.probability[second] + least)).mean(1)


@method("latent-language", family="explain", title="What language do multilingual language models think in?",
        paper="arXiv 2408.10811; protocol of 2402.10588", roster="217")
@torch.no_grad()
def latent_language(net: Network, inputs: Any, words: Mapping[str, Sequence[Sequence[int]]],
                    gain: Tensor | None = None) -> Languages:
    """Read each block's output at the last position by the final norm and the unembedding, and sum over a word's tokens.

    inputs: prompts without padding whose next word is the answer; words: by language, for each item the ids of all tokens
    with which its right word can begin (with and without a leading space, say). gain: another gain in the place of the
    final norm's, as a control [d_model].

    P_language(block) = sum of softmax(unembed(norm(x))) over the word's tokens; energy = sqrt(mean_v (u_v . x)^2) /
    sqrt(mean_vw (u_v . u_w)^2) with rows u and x of unit norm. Items whose words share a token between two languages say
    nothing and raise ValueError. Words of several tokens are read by their first one only.
    """
    names = list(words)
    for i, sets in enumerate(zip(*(map(set, words[name]) for name in names), strict=True)):
        if any(not tokens for tokens in sets) or sum(map(len, sets)) != len(set().union(*sets)):
            raise ValueError(f"item {i} has no tokens in some language, or languages share one; leave it out.")
    norm, head = _last(net)
    sites = [f"blocks.{i}" for i in range(net.n_blocks)]
    found = net.record(inputs, sites)
    rows = head.weight.float() * (norm.weight if gain is None else gain).float()
    rows = nn.functional.normalize(rows, dim=1)
    spread = (rows.T @ rows).pow(2).sum().sqrt() / len(rows)
    probability: dict[str, list[np.ndarray]] = {name: [] for name in names}
    entropy, energy = [], []
    for site in sites:
        x = found[site][:, -1]
        logits = head(_normed(norm, x, gain)).float().log_softmax(-1)
        for name in names:
            probability[name].append(np.array([float(row[list(ids)].exp().sum())
                                               for row, ids in zip(logits, words[name], strict=True)]))
        entropy.append((-(logits.exp() * logits).sum(-1) / np.log(2)).numpy())
        along = nn.functional.normalize(x.float(), dim=1) @ rows.T
        energy.append((along.pow(2).mean(1).sqrt() / spread).numpy())
    return Languages({name: np.stack(values) for name, values in probability.items()}, np.stack(entropy), np.stack(energy))


def _normed(norm: nn.Module, x: Tensor, gain: Tensor | None) -> Tensor:
    """The final norm of x, with its own gain or another."""
    if gain is None:
        return norm(x)
    from torch.func import functional_call
    return functional_call(norm, {"weight": gain.to(x)}, (x,), strict=False)


def _last(net: Network) -> tuple[Any, Any]:
    find: Any = getattr(net.module, "get_output_embeddings", lambda: None)
    head = find()
    if head is None or "norm" not in net.named:
        raise ValueError(f"{net.name} has no final norm and unembedding to read its layers by.")
    return net.module.get_submodule(net.named["norm"].path), head
