"""The greatest size of a unit's activation."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("activation_max", family="score", title="Greatest size of the activation")
@shared(Gates, of="change", per="position", combine="amax")
def activation_max(change: Tensor) -> Tensor:
    """Maximum over kept tokens of |x - ref|, what a closed gate takes away; for a head its Euclidean norm.

    change: x - ref of each entry, [positions, units].
    """
    return change.abs()
