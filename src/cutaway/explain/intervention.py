"""Intervention: does adding the feature make the network say what its name says?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..catalogue import method
from ..dictionaries import Feature
from ..dictionaries.dictionary import raw
from ..network import At, Edit
from .guess import Guess
from .outcome import Outcome, averaged
from .text import SCORING
from .windows import Examples, Unmeasurable

WITHIN = 0.1       # relative error of the strength's effect
TRIES = 24         # strengths
PROMPT = 48        # tokens of a prompt


@method("intervention", family="explain", title="Intervention score of a name", paper="arXiv 2410.13928")
@torch.no_grad()
def intervention(guesses: Sequence[Guess], examples: Examples, feature: Feature, kl: float = 0.5, n: int = 32,
                 seed: int = 0) -> list[Outcome]:
    """Add the feature's direction at the last token of prompts, and see how much likelier the name's tokens become next: nats.

    score = mean over prompts of log p'(T) - log p(T), where T are the tokens that the name is about and p' is the network
    with the direction added, so strongly that KL(p | p') is `kl` nats on average. guesses: the name, and names of other
    features, whose tokens are looked up in the same predictions. n: prompts, the beginnings of held-out rows. seed: of
    which. The paper lets a language model read eight new tokens and say how likely the name then is; here the network's
    own next-token probabilities answer, so that nothing but the network is needed, and a name without tokens has no score.
    """
    net, text = feature.features.net, examples.text
    if net.kind != "causal":
        raise Unmeasurable(f"an intervention is read off next-token probabilities, but {net.name} is of kind {net.kind!r}")
    dictionary = feature.dictionary
    if len(dictionary.writes) > 1:
        raise Unmeasurable(f"it writes at {', '.join(dictionary.writes)}, so it has no one direction that could be added")
    size = len(text.vocabulary)
    sets = [torch.from_numpy(found) for guess in guesses if (found := guess.tokens(text.vocabulary)).any()]
    if not guesses[0].tokens(text.vocabulary).any() or len(sets) < 2:
        raise Unmeasurable("the name, or every name it is compared with, speaks of no token whose probability can be looked up")
    rows = np.unique(text.places[text.window_side == SCORING][:, 0])
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:n])
    ids = torch.from_numpy(text.ids[rows, :PROMPT].astype(np.int64))
    site, unit = raw(dictionary.written(net)), (feature.direction / feature.direction.norm()).detach()

    def next_token(strength: float) -> Tensor:
        def ref(x: Tensor, at: At) -> Tensor:
            new = x.clone()
            new[:, -1] += strength * unit.to(x)
            return new
        with net.edited(Edit(site, ref)):
            return F.log_softmax(net.logits(ids)[:, -1, :size].float(), -1).cpu()

    clean = next_token(0.0)
    made = _at_kl(next_token, clean, kl)
    return [averaged((_mass(made, chosen) - _mass(clean, chosen)).double().numpy(), rows, "nats", "prompts") for chosen in sets]


def _at_kl(next_token: Callable[[float], Tensor], clean: Tensor, kl: float) -> Tensor:
    """The predictions at the strength whose mean KL from the clean ones is the wanted one.

    For small strengths KL grows with the square, which says where to look next; a bracket holds the search together.
    """
    low, high, strength = 0.0, float("inf"), 1.0
    for _ in range(TRIES):
        made = next_token(strength)
        found = float((clean.exp() * (clean - made)).sum(-1).mean())
        if abs(found / kl - 1) <= WITHIN:
            return made
        low, high = (strength, high) if found < kl else (low, strength)
        strength *= min(max((kl / max(found, 1e-9)) ** 0.5, 1 / 16), 16.0)
        if not low < strength < high:
            strength = (low + high) / 2
    raise Unmeasurable(f"no strength moves the next token by {kl} nats of KL; the nearest moves it by {found:.3g}")


def _mass(logs: Tensor, chosen: Tensor) -> Tensor:
    """The log probability of a set of tokens: [n]."""
    return logs[:, chosen[: logs.shape[1]]].logsumexp(-1)
