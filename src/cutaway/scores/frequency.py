"""How often a unit fires."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("frequency", family="score", title="Share of tokens at which the unit fires",
        paper="Hu et al. 2016, arXiv:1607.03250")
@shared(Gates, of="change", per="position")
def frequency(change: Tensor) -> Tensor:
    """Share of kept tokens at which the activation is not exactly its reference: one less APoZ for ReLU neurons.

    It tells units apart where they can be off (features, ReLU neurons, experts) and is 1 everywhere else.
    change: x - ref of each entry, [positions, units].
    """
    return (change != 0).to(change.dtype)
