"""What directions at a site do to the logits, when they go straight to the unembedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..network import Network


@torch.no_grad()
def logit_effects(net: Network, site: str, directions: Tensor) -> Tensor:
    """The change of each token's logit, less the mean over tokens, that a unit of each direction makes.

    directions: [n, d] -> [n, vocabulary]. They pass the final norm's weights; its scale, which depends on the token, is left
    out, and so are later blocks. Of networks side by side it is the one that the site is in. Raises ValueError for a network
    without an unembedding of width d.
    """
    net = _owner(net, site)
    find: Any = getattr(net.module, "get_output_embeddings", lambda: None)
    head = find()
    if head is None or net.tokenizer is None or head.weight.shape[1] != directions.shape[-1]:
        raise ValueError(f"{net.name} has no unembedding that a direction at {site} can be read by.")
    if "norm" in net.named:
        norm: Any = net.module.get_submodule(net.named["norm"].path)
        if isinstance(norm, torch.nn.LayerNorm):
            directions = directions - directions.mean(-1, keepdim=True)
        offset = 1.0 if net.family is not None and net.family.name == "gemma" else 0.0
        directions = directions.to(norm.weight.device) * (norm.weight.detach() + offset)
    effects = directions.to(head.weight.device).float() @ head.weight.detach().float().T
    return effects - effects.mean(-1, keepdim=True)


def last_written(net: Network, dictionary: Any) -> int:
    """Which of the sites that a dictionary writes comes last in the network: its number among `writes`."""
    order = {name: place for place, name in enumerate(net.named)}
    places = [order.get(name, -1) for name in dictionary.writes]
    return max(range(len(places)), key=lambda j: (places[j], j)) if min(places) >= 0 else len(places) - 1


def has_norm(net: Network, site: str) -> bool:
    """Whether a final norm's weights are part of `logit_effects`."""
    return "norm" in _owner(net, site).named


def _owner(net: Network, site: str) -> Network:
    """The network that a site is in: one of those side by side, as `1.blocks.2` is in the second."""
    number = site.partition(".")[0]
    return net.parts[int(number)] if net.parts and number.isdecimal() and int(number) < len(net.parts) else net
