"""Each metric once, with its n and interval."""

from .figure import Figure, bootstrap, ratio
from .loss import moved, row_loss, token_loss, token_targets
from .measure import METRICS, measure
from .reconstruction import Reconstruction, fidelity

__all__ = ["METRICS", "Figure", "Reconstruction", "bootstrap", "fidelity", "measure", "moved", "ratio", "row_loss",
           "token_loss", "token_targets"]
