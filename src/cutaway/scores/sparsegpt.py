"""What it costs to remove weights when the others may make up for it."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .inputs import Inputs, Moments
from .maps import Map, without_weights
from .sweep import shared


@method("sparsegpt", family="score", title="Optimal-brain-surgeon cost of removing weights", refuses=without_weights,
        paper="Frantar & Alistarh 2023, arXiv:2301.00774; Hassibi & Stork 1992, Optimal Brain Surgeon")
@shared(Inputs, keeps="whole")
def sparsegpt(map: Map, moments: Moments) -> Tensor:
    """w_ij^2 / [H^-1]_jj, summed over a unit's weights, with H the second moment of the map's inputs, 1% damped: [units].

    For one column it is the least error of the map's output without that input, once all other weights are mended. It is
    taken before any weight is changed, on the inputs that the network as it is gives; SparseGPT changes weights in order.
    """
    return map.units(map.weight.double().square() / moments.inverse_diagonal)
