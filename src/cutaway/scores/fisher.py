"""The Fisher information of the gate."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("fisher", family="score", title="Empirical Fisher information of the gates, token by token",
        paper="Theis et al. 2018, arXiv:1801.05787; Kwon et al. 2022, arXiv:2204.09656")
@shared(Gates, of="gradient", per="row", backward=True)
def fisher(minus_gradient: Tensor) -> Tensor:
    """(d metric / d gate)^2 of each token, summed over a row's tokens, mean over rows.

    minus_gradient: -d metric / d gate of each entry, [positions, units].
    """
    return minus_gradient.square()
