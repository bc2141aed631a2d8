"""Weights times the size of what they multiply."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from .inputs import Inputs, Moments
from .maps import Map, without_weights
from .sweep import shared


@method("wanda", family="score", title="Size of weights times the norm of their inputs", refuses=without_weights,
        paper="Sun et al. 2023, arXiv:2306.11695, eq. 1")
@shared(Inputs, keeps="norms")
def wanda(map: Map, moments: Moments) -> Tensor:
    """|w_ij| times the norm of input j over all kept tokens, summed over a unit's weights: [units].

    The paper compares single weights within a row; here a unit's weights are summed. The weights of a row are those of one
    output, the weights of a neuron, a head or another input are the columns that read it. The score does not change where
    an input is scaled and its weights are scaled back.
    """
    return map.units(map.weight.abs() * moments.norms)
