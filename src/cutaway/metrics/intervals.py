"""The interval of a mean over a handful of seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def interval(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95% interval of the mean of paired differences by Student's t with n - 1 degrees of freedom.

    Over a handful of seeds a bootstrap is too narrow: it knows no value beyond the few that it has. One difference has no
    interval (nan, nan).
    """
    from scipy.stats import t
    d = np.asarray(differences, float)
    if len(d) < 2:
        return float("nan"), float("nan")
    half = float(t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5)
    return float(d.mean()) - half, float(d.mean()) + half
