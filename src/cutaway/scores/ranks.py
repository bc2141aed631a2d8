"""Agreement of two columns by rank."""

from __future__ import annotations

from math import nan

import numpy as np

FEWEST = 5


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis, ties at their mean rank; nan where a column is constant."""
    from scipy.stats import rankdata
    x, y = (rankdata(values, axis=-1) for values in (x, y))
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def agreement(x: np.ndarray, y: np.ndarray, seed: int = 0, n: int = 1000) -> tuple[float, float, float]:
    """Spearman's rank correlation of two columns [units], and its 95% percentile interval over resampled units."""
    drawn = np.random.default_rng(seed).integers(0, len(x), (n, len(x)))
    low, high = np.nanpercentile(spearman(x[drawn], y[drawn]), [2.5, 97.5])
    return float(spearman(x, y)), float(low), float(high)


def repeatability(halves: np.ndarray) -> float:
    """How far a measurement of units would agree with itself on as much other data.

    halves: [2, units], measured on two halves of the data, whose rank correlation r gives 2 r / (1 + r) for the whole
    (Spearman 1910, Brown 1910); nan for fewer than 5 units or without a second half.
    """
    if halves.shape[1] < FEWEST or not np.isfinite(halves).all():
        return nan
    r = float(spearman(*halves))
    return 2 * r / (1 + r) if r > 0 else r


def in_common(x: np.ndarray, y: np.ndarray, top: int) -> int:
    """How many units are among the top of both columns."""
    first, second = (set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (x, y))
    return len(first & second)


def stratified(columns: list[np.ndarray], size: int, n: int, seed: int) -> np.ndarray:
    """n of `size` units, one from each n-quantile of the mean rank over the columns; all where there are no more."""
    from scipy.stats import rankdata
    if size <= n:
        return np.arange(size)
    random = np.random.default_rng(seed)
    ranks = np.mean([rankdata(values) for values in columns], axis=0) if columns else random.permutation(size)
    return np.sort([random.choice(part) for part in np.array_split(np.argsort(ranks, kind="stable"), n)])
