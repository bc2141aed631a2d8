"""What it costs to round weights when the others may make up for it."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .inputs import Inputs, Moments
from .maps import Map, without_weights
from .sweep import shared


@method("gptq", family="score", title="Optimal-brain-quantizer cost of rounding weights", refuses=without_weights,
        paper="Frantar et al. 2022, arXiv:2210.17323, eq. 2")
@shared(Inputs, keeps="whole")
def gptq(map: Map, moments: Moments, *, bits: int = 4) -> Tensor:
    """(round(w_ij) - w_ij)^2 / [H^-1]_jj, summed over a unit's weights, with H as for `sparsegpt`: [units].

    bits: of the grid that weights are rounded to, one for each row, from its least weight or 0 to its greatest or 0. It is
    the cost of each weight's rounding before any other was rounded, by which GPTQ's forerunner chooses its order.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"weights are rounded to 1 to 16 bits; found bits={bits}.")
    w = map.weight.double()
    low, high = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-300)
    rounded = ((w - low) / step).round() * step + low
    return map.units((rounded - w).square() / moments.inverse_diagonal)
