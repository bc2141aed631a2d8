"""RISE: the mean of random masks, each weighted by what the network says of the masked input."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..catalogue import method
from .attribute import reads
from .inputs import Inputs
from .target import Target

DRAWN = 128     # masks that are drawn at a time
CELLS = 8       # cells of a mask's grid along a side, as in the authors' notebook; fewer for small images


@method("rise", family="attribute", title="Randomized input sampling", paper="arXiv 1806.07421", roster="243")
@reads("probability")
@torch.no_grad()
def rise(inputs: Inputs, target: Target, *, n_masks: int = 2000, cells: int | None = None, keep: float = 0.5,
         seed: int = 0) -> Tensor:
    """Weight random masks by the probability of the target under each: S = sum_n p(M_n x) M_n / sum_n M_n.

    n_masks: N, the same for all rows. cells: of a mask's grid along a side, 8 or half the image's side if that is less.
    keep: the share of cells that a mask keeps. seed: of the masks.

    As in the paper, masks over images are grids of cells, resized bilinearly and shifted by less than a cell, and the target
    is a probability (with a contrast: the difference of two). Masked pixels take the baseline. Differs: sums are divided
    by each unit's own coverage sum_n M_n, where the paper has its expectation N keep: that estimates the same mean of p given
    the unit with much less noise, as the constant part of p no longer shows the masks. The resizing does not reflect at the
    edges, where the crop never reaches; units that are no map (tokens, words, features, plain inputs) are masked one by one,
    without a grid.
    """
    if not 0 < keep < 1 or n_masks < 1:
        raise ValueError(f"masks keep a share between 0 and 1 and there is at least 1; found {keep} and {n_masks}.")
    target = target.read_as("probability")
    generator = torch.Generator().manual_seed(seed)
    n = len(inputs.x)
    total = torch.zeros(inputs.keep.shape, dtype=inputs.x.dtype, device=inputs.x.device)
    cover = torch.zeros(inputs.shape, dtype=inputs.x.dtype, device=inputs.x.device)
    for start in tqdm(range(0, n_masks, DRAWN), desc="rise", leave=False, disable=None if inputs.progress else True):
        masks = drawn(min(DRAWN, n_masks - start), inputs, cells, keep, generator)
        for gates in masks.to(inputs.x).split(max(1, inputs.limit // n)):
            said = inputs.gated(gates.repeat_interleave(n, 0), target, inputs.rows.repeat(len(gates))).view(len(gates), n)
            total += torch.einsum("mn,m...->n...", said.to(total), gates)
            cover += gates.sum(0)
    return total / cover.clamp(min=1e-6)


def drawn(n: int, inputs: Inputs, cells: int | None, keep: float, generator: torch.Generator) -> Tensor:
    """n random masks over the units: [n, *units]."""
    if inputs.over in ("pixels", "patches"):
        return grids(n, inputs.shape[0], inputs.shape[1], cells, keep, generator)
    return (torch.rand(n, *inputs.shape, generator=generator) < keep).float()


def grids(n: int, height: int, width: int, cells: int | None, keep: float, generator: torch.Generator) -> Tensor:
    """Smooth random masks [n, height, width] with values from 0 to 1."""
    side = cells or max(1, min(CELLS, min(height, width) // 2))
    if not 1 <= side <= min(height, width):
        raise ValueError(f"a mask's grid has from 1 cell to one for each of {min(height, width)} units; found {side}.")
    size = [math.ceil(length / side) for length in (height, width)]
    small = (torch.rand(n, 1, side, side, generator=generator) < keep).float()
    large = F.interpolate(small, size=[(side + 1) * cell for cell in size], mode="bilinear", align_corners=False)[:, 0]
    down, across = (torch.randint(cell, (n,), generator=generator) for cell in size)
    index = torch.arange(n)[:, None, None]
    return large[index, (down[:, None] + torch.arange(height))[:, :, None], (across[:, None] + torch.arange(width))[:, None, :]]
