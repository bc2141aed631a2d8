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
    out, and so are later blocks. Raises ValueError for a network without an unembedding of width d.
    """
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
