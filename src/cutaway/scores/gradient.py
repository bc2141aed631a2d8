"""The signed gradient of the gate."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("gradient", family="score", title="First-order effect of closing a unit",
        paper="Molchanov et al. 2016, arXiv:1611.06440, eq. 7 without the absolute value")
@shared(Gates, of="gradient", per="row", backward=True)
def gradient(minus_gradient: Tensor) -> Tensor:
    """The first-order estimate of the exact effect: -d metric / d gate at gate 1, mean over rows.

    With zero as the reference it is minus activation times gradient, summed over the tokens of a row.
    minus_gradient: -d metric / d gate of each entry, [positions, units].
    """
    return minus_gradient
