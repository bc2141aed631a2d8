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
    if inputs.site is None or inputs.over not in ("tokens", "words"):
        raise ValueError("attention is paid between tokens; it has nothing to say without text.")
    if "blocks.0.attn.pattern" not in net.named:
        raise ValueError(f"{net.name} has no attention patterns that Cutaway knows by name.")
    with net.watched({inputs.site: lambda old, at: inputs.x.to(old)}):
        patterns = net.record(inputs.batch, "blocks.*.attn.pattern")
    inputs.passed += len(inputs.batch)
    reader = _reader(inputs, target)
    paid = torch.stack([pattern.mean(1) for pattern in patterns.values()]).mean(0)
    at = paid[torch.arange(len(paid), device=paid.device), reader.to(paid.device)]
    return inputs.units.gather(at[..., None])


def _reader(inputs: Inputs, target: Target) -> Tensor:
    """The position that predicts: the target's, or in a BERT that gives one prediction a row its class token's."""
    if target.position is not None:
        return target.position
    if target.index is not None and inputs.net.family is not None and inputs.net.family.name == "bert":
        return torch.zeros(len(inputs.x), dtype=torch.int64)
    raise ValueError(f"attention is paid by the position that predicts, and what is explained of {inputs.net.name} has none.")
