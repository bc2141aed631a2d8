"""The exact effect of each unit: the target with all units less the target without one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import method
from .inputs import Inputs
from .target import Target


@method("leave-one-out", family="attribute", title="Leave one out", paper="arXiv 1612.08220")
def leave_one_out(inputs: Inputs, target: Target) -> Tensor:
    """What the target loses when one unit is taken away, for every unit that counts: one pass each, without gradients."""
    row, *unit = inputs.keep.nonzero(as_tuple=True)
    gates = torch.ones(len(row), *inputs.shape, dtype=inputs.x.dtype, device=inputs.x.device)
    gates[(torch.arange(len(row), device=row.device), *unit)] = 0
    whole = inputs.sweep(torch.ones_like(inputs.keep, dtype=inputs.x.dtype), target, inputs.rows)
    values = torch.zeros(inputs.keep.shape, dtype=whole.dtype, device=whole.device)
    values[(row, *unit)] = whole[row] - inputs.sweep(gates, target, row)
    return values
