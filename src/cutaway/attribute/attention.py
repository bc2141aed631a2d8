"""Attention as an attribution, which it is often taken for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import method
from .inputs import Inputs
from .target import Target


@method("attention", family="attribute", title="Attention paid", paper="arXiv 1902.10186")
def attention(inputs: Inputs, target: Target) -> Tensor:
    """How much attention the position that predicts pays to each token, on average over heads and blocks.

    It does not depend on what is explained there, only on where: a baseline for text rather than an explanation.
    """
    net = inputs.net
    if inputs.over not in ("tokens", "words") or target.position is None:
        raise ValueError("attention is paid between tokens; it has nothing to say without text and a position.")
    if "blocks.0.attn.pattern" not in net.named:
        raise ValueError(f"{net.name} has no attention patterns that Cutaway knows by name.")
    patterns = net.record(inputs.batch, "blocks.*.attn.pattern")
    inputs.passed += len(inputs.batch)
    paid = torch.stack([pattern.mean(1) for pattern in patterns.values()]).mean(0)
    at = paid[torch.arange(len(paid), device=paid.device), target.position.to(paid.device)]
    return inputs.units.gather(at[..., None])
