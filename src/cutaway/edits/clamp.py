"""Clamping: hold a feature at a value, and leave everything else as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..catalogue import method
from ..network import At, Edit


@method("clamp", family="edit", title="Feature clamping",
        paper="Scaling Monosemanticity, transformer-circuits.pub 2024; arXiv 2410.19278")
def clamp(feature: Any, value: float = 0.0) -> Edit:
    """Hold one feature at a value at every token but special ones; 0 ablates it. The error of reconstruction is kept.

    x' = x + (value - z) d, where z is what the dictionary finds for the feature at that token (0 where it is silent) and
    d is its decoder row.
    """
    dictionary, index = feature.dictionary, feature.index
    if dictionary.reads != dictionary.writes or len(dictionary.writes) > 1:
        reads, writes = ", ".join(dictionary.reads), ", ".join(dictionary.writes)
        raise ValueError(f"these latents are read at {reads} and written at {writes}, so they cannot be held at a value at one "
                         "site; steer along what they write.")

    def ref(x: Tensor, at: At) -> Tensor:
        codes = dictionary.encode(x.to(dictionary.W_dec.dtype))
        change = (value - codes.of(index))[..., None] * dictionary.W_dec[index]
        return x + torch.where(dictionary.keeps(x, at.tokens)[..., None], change, 0).to(x.dtype)
    return Edit(dictionary.site, ref)
