"""Features whose rule is known: what explainers and scorers are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..dictionaries import Dictionary, Facts, Features
from ..dictionaries.parts import TopK
from ..network import Network
from .guess import Guess
from .rules import Rule
from .surroundings import Surroundings
from .vocabulary import Vocabulary


class Planted(Features):
    """Features that fire where rules say, with activations that vary, and by chance elsewhere.

    rules: one a feature; its direction is the mean of the unembeddings of the rule's tokens, where the network has any.
    noise: firings by chance, as a share of those by the rule, which are half as strong. seed: of strengths and noise.
    """

    def __init__(self, net: Network, data: Any, rules: Sequence[Rule], site: str, noise: float = 0.0, seed: int = 0):
        ids = np.stack([data.tokens(row) for row in range(data.n_rows)])
        counts = ~np.isin(ids, data.special_ids)
        vocabulary = Vocabulary.of(net.tokenizer, max(len(net.tokenizer), int(ids.max()) + 1))
        super().__init__(net, _dictionary(net, rules, site, vocabulary), data)
        self.n_tokens, self.true = int(counts.sum()), [Guess(str(rule), "planted", rule) for rule in rules]
        around = Surroundings(np.where(counts, ids, len(vocabulary)), vocabulary)
        self._found = [_firings(rule.matches(around) & counts, counts, noise, np.random.default_rng([seed, i]))
                       for i, rule in enumerate(rules)]

    @property
    def counts(self) -> np.ndarray:
        return np.array([len(values) for values, _, _ in self._found])

    def firings(self, latent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._found[latent]


def _firings(hits: np.ndarray, counts: np.ndarray, noise: float,
             random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations, rows and positions of a feature that fires at some tokens and at a few others."""
    strength = np.where(hits, random.lognormal(0.0, 0.5, hits.shape), 0.0)
    free = np.flatnonzero(counts & ~hits)
    chance = random.permutation(free)[: round(noise * hits.sum())]
    strength.ravel()[chance] = 0.5 * random.lognormal(0.0, 0.5, len(chance))
    rows, positions = np.nonzero(strength)
    return strength[rows, positions].astype(np.float32), rows, positions


@torch.no_grad()
def _dictionary(net: Network, rules: Sequence[Rule], site: str, vocabulary: Vocabulary) -> Dictionary:
    find: Any = getattr(net.module, "get_output_embeddings", lambda: None)
    head = find()
    width = net.d_model or 1
    dictionary = Dictionary(width, len(rules), TopK(1), Facts(site=site))
    if head is not None and head.weight.shape[1] == width:
        weight = head.weight.detach().float() - head.weight.detach().float().mean(0)
        for i, rule in enumerate(rules):
            chosen = torch.from_numpy(rule.tokens(vocabulary)[: len(weight)])
            dictionary.W_dec[i] = weight[chosen].mean(0) if chosen.any() else 0
    return dictionary.requires_grad_(False)
