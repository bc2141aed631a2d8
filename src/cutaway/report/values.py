"""The leaves of a report: figures that may be missing, series, histograms, and how all of it becomes JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ..metrics import Figure

T = TypeVar("T")


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
    def of(values: ArrayLike, bins: int = 40, spacing: Literal["linear", "log"] = "linear") -> Histogram:
        """The histogram of the values above zero, with `linear` or `log` spacing of its edges."""
        found = np.asarray(values, dtype=np.float64).ravel()
        positive = found[np.isfinite(found) & (found > 0)]
        if not len(positive):
            return Histogram([], [], len(found))
        low, high = positive.min(), positive.max()
        if low == high:
            low, high = low / 1.5, high * 1.5
        edges = np.linspace(0.0, high, bins + 1) if spacing == "linear" else np.geomspace(low, high, bins + 1)
        edges[-1] = high  # geomspace may end a rounding error below the largest value
        counts = np.histogram(positive.clip(edges[0], edges[-1]), edges)[0]
        return Histogram(edges.tolist(), counts.tolist(), len(found) - len(positive))


def spaced(items: Sequence[T], n: int) -> tuple[list[T], list[T]]:
    """n of the items, evenly from first to last, and the others: what is seen at a glance spans the whole range."""
    chosen = set(np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int).tolist())
    return ([item for i, item in enumerate(items) if i in chosen],
            [item for i, item in enumerate(items) if i not in chosen])


def plain(value: Any) -> Any:
    """Plain data that any JSON reader takes: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
