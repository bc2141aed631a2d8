"""The mean size of a unit's activation."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("activation", family="score", title="Mean size of the activation", paper="Hu et al. 2016, arXiv:1607.03250")
@shared(Gates, of="change", per="position")
def activation(change: Tensor) -> Tensor:
    """Mean over kept tokens of |x - ref|, what a closed gate takes away; for a head its Euclidean norm.

    change: x - ref of each entry, [positions, units].
    """
    return change.abs()
