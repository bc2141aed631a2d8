"""The greatest size of a unit's activation."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .activations import sizes
from .column import shared


@method("activation_max", family="score", title="Greatest size of the activation")
@shared(sizes, combine="amax")
def activation_max(size: Tensor) -> Tensor:
    """Maximum over kept tokens of |x - ref|, what a closed gate takes away; for a head its Euclidean norm.

    size: of each entry, [positions, units].
    """
    return size
