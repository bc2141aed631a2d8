"""The size of the first-order effect, example by example."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared


@method("taylor", family="score", title="Absolute first-order effect of each row",
        paper="Molchanov et al. 2016, arXiv:1611.06440, eq. 8; for heads Michel et al. 2019, arXiv:1905.10650, eq. 4")
@shared(Gates, of="row gradient", per="row", backward=True)
def taylor(minus_gradient: Tensor) -> Tensor:
    """|d metric / d gate| of each row, mean over rows: with zero as the reference |activation times gradient|, summed inside.

    Tokens of a row may cancel and rows may not. The papers' further normalisation by layer is left out.
    minus_gradient: -d metric / d gate of each row, [rows, units].
    """
    return minus_gradient.abs()
