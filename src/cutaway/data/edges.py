"""Edges of images, which no network is asked about: what an attribution has to be better than."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def edges(x: Tensor) -> Tensor:
    """How steep images [n, channels, h, w] are at each pixel by Sobel's filter, summed over channels: [n, h, w]."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device)
    filters = torch.stack([across, across.T])[:, None].to(x)
    steep = F.conv2d(F.pad(x.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate"), filters)
    return steep.pow(2).sum(1).sqrt().view(x.shape).sum(1)
