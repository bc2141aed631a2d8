"""The leaves of a report: figures that may be missing, series, histograms, and how all of it becomes JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics import Figure


@dataclass(frozen=True)
class Missing:
    """A figure that could not be measured, and why; it is shown as a dash, never as zero."""

    name: str
    reason: str


Shown = Figure | Missing


@dataclass(frozen=True)
class Series:
    """One line of a chart: a name and its points. y may hold NaN, which breaks the line."""

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Histogram:
    """Counts between edges. zeros: how many values were zero (or no number at all) and are in no bin."""

    edges: list[float]
    counts: list[int]
    zeros: int = 0

    @staticmethod
    def of(values: Iterable[float], bins: int = 40, spacing: str = "linear") -> Histogram:
        """The histogram of the values above zero, with `linear` or `log` spacing of its edges."""
        found = np.asarray(list(values), dtype=np.float64)
        positive = found[np.isfinite(found) & (found > 0)]
        if not len(positive):
            return Histogram([], [], len(found))
        low, high = positive.min(), positive.max()
        if low == high:
            low, high = low / 1.5, high * 1.5
        space = {"linear": np.linspace, "log": np.geomspace}[spacing]
        edges = space(0.0 if spacing == "linear" else low, high, bins + 1)
        edges[-1] = high  # geomspace may end a rounding error below the largest value
        counts = np.histogram(positive.clip(edges[0], edges[-1]), edges)[0]
        return Histogram(edges.tolist(), counts.tolist(), len(found) - len(positive))


def plain(value: Any) -> Any:
    """Plain data that any JSON reader takes: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
