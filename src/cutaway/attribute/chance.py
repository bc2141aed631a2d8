"""Random values: what every attribution has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import method
from .inputs import Inputs
from .target import Target


@method("random", family="attribute", title="Random values")
def chance(inputs: Inputs, target: Target, *, seed: int = 0) -> Tensor:
    """Numbers between 0 and 1 that know nothing of the network: the control for every other attribution.

    seed: of the draw.
    """
    return torch.rand(inputs.keep.shape, generator=torch.Generator().manual_seed(seed)).to(inputs.x.device)
