"""Attention sinks: a few tokens whose activations are so large that they would drown all others.

A dictionary stores the limit that it was trained with, and training, evaluation and display all ask `below`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FACTOR = 10.0


def norm_limit(x: Tensor, keep: Tensor | None = None, factor: float = FACTOR) -> float:
    """The largest norm that still counts: `factor` times the median norm (Sun et al. 2024, arXiv:2402.17762).

    x: activations [..., d]; keep: bool [...], the positions over which the median is taken, all if left out. Returns
    infinity, which lets everything through, where at least half of the activations are zero. Raises ValueError when
    there are no activations or some are NaN.
    """
    norms = _norms(x)
    norms = norms.flatten() if keep is None else norms[keep.to(norms.device)]
    if norms.numel() == 0:
        raise ValueError("the norm limit is a median over activations, but none were kept; give more tokens.")
    if norms.isnan().any():
        raise ValueError("the norm limit cannot be estimated, because some activations are NaN.")
    median = float(norms.median())
    return factor * median if median > 0 else math.inf


def below(x: Tensor, max_norm: float) -> Tensor:
    """Which activations are no attention sinks: x [..., d] -> bool [...], true up to and at `max_norm`.

    NaN counts as below, so that whoever computes with it can say so, instead of its vanishing here.
    """
    return ~(_norms(x) > max_norm)


def _norms(x: Tensor) -> Tensor:
    # The square of a bfloat16 or float16 norm can overflow or round; the limit must mean the same in every type.
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
