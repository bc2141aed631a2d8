"""What needs the network: a text of one's own, and a feature pushed."""

from __future__ import annotations

from typing import Any

import torch

from ..edits import clamp, steer
from ..network import Network
from ..store import FeatureStore
from ..store.search import codes_of

LONGEST = 4000        # characters of a text
WAYS = ("add", "clamp", "ablate")


def _read(store: FeatureStore, net: Network, text: str, room: int = 0) -> dict[str, torch.Tensor]:
    """A text as the network's input, checked."""
    if not text.strip():
        raise ValueError("there is no text; write some.")
    if len(text) > LONGEST:
        raise ValueError(f"a text here has at most {LONGEST:,} characters; found {len(text):,}.")
    store.check(net)
    inputs = net.tokens(text)
    n, most = len(net.tokenizer(text)["input_ids"]), net.context     # the inputs themselves are cut at the context
    if most and n + room > most:
        more = f" and {room} are to follow" if room else ""
        raise ValueError(f"{net.name} reads at most {most} tokens; this text has {n}{more}.")
    return inputs


@torch.no_grad()
def tried(store: FeatureStore, net: Network, latent: int, text: str, n: int = 3) -> dict[str, Any]:
    """JSON {tokens, activations, features}: a feature at each token of a text, and the strongest features there."""
    _read(store, net, text)
    _, keep, codes = codes_of(store, net, text)
    values = torch.where(keep, codes.of(store.known(latent)), 0)
    found = store.through(net, text, n)
    return {"tokens": found["tokens"], "activations": [round(float(v), 6) for v in values], "features": found["features"]}


@torch.no_grad()
def steered(store: FeatureStore, net: Network, latent: int, prompt: str, how: str = "add", strength: float = 1.0,
            new_tokens: int = 40, temperature: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """JSON: how a text goes on as it is and with a feature pushed, and how far that moves the predictions.

    how: `add` strength times the feature's largest activation at every token, `clamp` the feature to that, or `ablate` it.
    kl: KL(as it is || pushed) in nats, the mean over the n tokens of the prompt and of how it goes on as it is.
    """
    if how not in WAYS:
        raise ValueError(f"a feature can be pushed by {', '.join(WAYS)}; found {how!r}.")
    if not -20 <= strength <= 20:
        raise ValueError(f"the strength is from -20 to 20 times the feature's largest activation; found {strength}.")
    if not 1 <= new_tokens <= 100 or not 0 <= temperature <= 5:
        raise ValueError("give 1 to 100 new tokens and a temperature from 0 to 5.")
    if net.kind != "causal":
        raise ValueError(f"{net.name} does not generate text, so there is nothing to steer.")
    _read(store, net, prompt, room=new_tokens)
    feature = store[latent]
    value = strength * feature.max
    if how == "add" and value == 0:
        raise ValueError("adding nothing changes nothing; give a strength other than 0 to a feature that fires.")
    value = 0.0 if how == "ablate" else value
    edit = steer(feature, value) if how == "add" else clamp(feature, value)
    before = net.generate(prompt, new_tokens, temperature, seed)
    inputs = net.tokens(before)
    as_it_is = net.logits(inputs)[0].float().log_softmax(-1)
    with net.edited(edit):
        after = net.generate(prompt, new_tokens, temperature, seed)
        pushed = net.logits(inputs)[0].float().log_softmax(-1)
    kl = (as_it_is.exp() * (as_it_is - pushed)).sum(-1)
    return {"how": how, "strength": strength, "value": value, "prompt": prompt,
            "before": before.removeprefix(prompt), "after": after.removeprefix(prompt), "kl": float(kl.mean()),
            "most": float(kl.max()), "n": len(kl), "new_tokens": new_tokens, "temperature": temperature, "seed": seed}
