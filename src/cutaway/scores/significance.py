"""Which units matter beyond chance, and which matter more than another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics.discovery import CONTROLS
from .exact import effects

if TYPE_CHECKING:
    import pandas as pd

    from ..units import Units


def significance(units: Units, data: Any, *, against: int | None = None, control: str = "bh",
                 **options: Any) -> pd.DataFrame:
    """The exact effect of each unit with its 95% interval over rows, a p-value, and one adjusted for the number of units.

    against: a row of the table whose effect is taken away from all others' row by row, so that differences are tested;
    left out, each effect is tested against 0. control: `bh` (Benjamini and Hochberg, for tests that do not pull against
    each other) or `by` (Benjamini and Yekutieli, for any). options: those of `exact`.

    Student's t over the rows of the data, which are taken as independent; effects that are 0 on all rows have p = 1. Gives
    the table's own columns and `effect`, `low`, `high`, `p` and `adjusted`, the least adjusted first.
    """
    if control not in CONTROLS:
        raise ValueError(f"false discoveries are controlled by {' or '.join(CONTROLS)}; found {control!r}.")
    if against is not None and not 0 <= against < len(units):
        raise ValueError(f"the table has the rows 0 to {len(units) - 1}; found against={against}.")
    found, about = effects(units, data, **options)
    if len(found) < 2:
        raise ValueError(f"the spread over rows takes at least two; {about['data']} has {len(found)}.")
    table, tested = units.frame, np.ones(len(units), dtype=bool)
    if against is not None:
        found, tested = found - found[:, [against]], np.arange(len(units)) != against
    mean, low, high, p = _student(found[:, tested])
    made = table[tested].assign(effect=mean, low=low, high=high, p=p, adjusted=CONTROLS[control](p))
    made.attrs["about"] = {**about, "control": control, "against": against}
    return made.sort_values(["adjusted", "p"], kind="stable", ignore_index=True)


def _student(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, 95% interval and two-sided p-value of each column of x [rows, units] against 0."""
    from scipy.stats import t
    n, mean = len(x), x.mean(0)
    error = x.std(0, ddof=1) / np.sqrt(n)
    half = t.ppf(0.975, n - 1) * error
    spread = error > 0
    size = np.where(spread, np.abs(mean) / np.where(spread, error, 1), np.where(mean == 0, 0, np.inf))
    return mean, mean - half, mean + half, 2 * t.sf(size, n - 1)
