"""How heavy the tails of a unit's activation are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from .gates import Gates
from .sweep import shared

STEADY = 1e-12  # a variance below this share of the mean square is rounding


def from_powers(means: np.ndarray) -> np.ndarray:
    """Kurtosis from the means of the first four powers, [4, units] -> [units]; 0 for units that never change."""
    m1, m2, m3, m4 = means
    variance = m2 - m1**2
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    changes = variance > STEADY * m2
    return np.where(changes, fourth / np.where(changes, variance, 1) ** 2, 0.0)


@method("kurtosis", family="score", title="Kurtosis of the activation",
        paper="as a measure of sparsity Hurley & Rickard 2008, arXiv:0811.4706")
@shared(Gates, of="change", per="position", finish=from_powers)
def kurtosis(change: Tensor) -> Tensor:
    """Fourth central moment over the squared variance of x - ref, over kept tokens; for a head, of its Euclidean norm.

    3 for a Gaussian, large for a unit that speaks seldom and loudly, 0 for one that never changes.
    change: x - ref of each entry, [positions, units]; gives its first four powers, [4, positions, units].
    """
    x = change.double()  # a large mean costs digits
    square = x * x
    return torch.stack([x, square, square * x, square * square])
