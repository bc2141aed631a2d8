"""The mean size of a unit's activation."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .activations import sizes
from .column import shared


@method("activation", family="score", title="Mean size of the activation", paper="Hu et al. 2016, arXiv:1607.03250")
@shared(sizes, per="position")
def activation(size: Tensor) -> Tensor:
    """Mean over kept tokens of |x - ref|, what a closed gate takes away; for a head its Euclidean norm.

    size: of each entry, [positions, units].
    """
    return size
