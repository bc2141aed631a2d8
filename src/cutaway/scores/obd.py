"""The second-order effect, with the curvature's diagonal from gradients."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("obd", family="score", title="Second-order effect by the diagonal of the empirical Fisher, row by row",
        paper="LeCun et al. 1989, Optimal Brain Damage; Theis et al. 2018, arXiv:1801.05787; Molchanov et al. "
              "2019, arXiv:1906.10771, the gate's square")
@shared(Gates, of="row gradient", per="row", backward=True)
def obd(minus_gradient: Tensor) -> Tensor:
    """Half of (d metric / d gate)^2 of each row, mean over rows: the effect of closing a unit at a minimum of the loss.

    A row counts as one example; Molchanov et al. take the square of a mini-batch's mean, which hangs on its size. The
    empirical Fisher stands for the curvature where a row's metric is one negative log-likelihood; a mean over many tokens
    makes it smaller by their number for all units alike.
    minus_gradient: -d metric / d gate of each row, [rows, units].
    """
    return minus_gradient.square() / 2
