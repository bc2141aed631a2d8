"""Many tests at once: p-values adjusted so that few of what is called a discovery is chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p-values [n]: those at most q are discoveries, of which on average at most a share q is false.

    For tests that are independent or depend positively on each other (Benjamini & Hochberg 1995; Benjamini & Yekutieli
    2001, theorem 1.2). Raises ValueError for values that are no probabilities.
    """
    p = _probabilities(p)
    n, order = len(p), np.argsort(p, kind="stable")
    steps = p[order] * n / np.arange(1, n + 1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1].clip(max=1)
    return adjusted


def benjamini_yekutieli(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """The same for tests that may depend on each other in any way, larger by 1 + 1/2 + ... + 1/n (2001, theorem 1.3)."""
    p = _probabilities(p)
    return (benjamini_hochberg(p) * (1 / np.arange(1, len(p) + 1)).sum()).clip(max=1)


CONTROLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"bh": benjamini_hochberg, "by": benjamini_yekutieli}


def _probabilities(p: Sequence[float] | np.ndarray) -> np.ndarray:
    found = np.asarray(p, float)
    if found.ndim != 1 or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"p-values are a list of numbers from 0 to 1; found {np.asarray(p).tolist()!r:.80}.")
    return found
