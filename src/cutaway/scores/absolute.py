"""The absolute gradient of the gate, token by token."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("abs", family="score", title="Absolute first-order effect, summed over tokens",
        paper="Michel et al. 2019, arXiv:1905.10650, eq. 4, token by token")
@shared(Gates, of="gradient", per="row", backward=True)
def abs(minus_gradient: Tensor) -> Tensor:
    """|d metric / d gate| of each token, summed over a row's tokens, mean over rows: effects of either sign add up.

    minus_gradient: -d metric / d gate of each entry, [positions, units].
    """
    return minus_gradient.abs()
