"""Layer-wise relevance propagation as a score of units."""

from __future__ import annotations

from torch import Tensor

from ..catalogue import method
from ..network.relevance import relevance as rules
from .gates import Gates
from .sweep import shared


@method("relevance", family="score", title="Relevance by layer-wise propagation",
        paper="Bach et al. 2015, doi 10.1371/journal.pone.0130140; for transformers Ali et al. 2022, arXiv:2202.07304")
@shared(Gates, of="gradient", per="row", backward=True, within=rules)
def relevance(minus_coefficient: Tensor) -> Tensor:
    """Minus (x - ref) times LRP's coefficient for the metric, summed over tokens, mean over rows: what the unit holds down.

    Norms' scales and attention patterns are held, activations hand on all they have, products share in halves. Relevance of
    the loss starts with the ordinary gradient of the logits.
    minus_coefficient: of each entry, [positions, units].
    """
    return minus_coefficient
