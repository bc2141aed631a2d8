"""Chance that a resumed training meets again."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def chance(x: Tensor) -> torch.Generator:
    """A generator on the CPU whose seed comes from a batch of activations x [n, d] themselves.

    The same batch draws the same numbers, so that nothing has to be kept to go on with a training exactly, and what is
    drawn differs between batches and between seeds, since their batches differ.
    """
    return torch.Generator().manual_seed(zlib.crc32(x[:4].detach().float().cpu().numpy().tobytes()))
