"""A figure that can be believed: its value, its interval, and what it was measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, repr=False)
class Figure:
    """One measured number.

    low, high: 95% bootstrap interval over rows of the data.
    n: how many things were averaged, and `of` says which (tokens, rows, latents).
    baseline: what the number is measured against, where it is relative. undefined: why the value is no number (nan).
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    of: str = "tokens"
    unit: str = ""
    baseline: str | None = None
    data: str = ""
    seed: int = 0
    undefined: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        against = f", against {self.baseline}" if self.baseline else ""
        interval = f" [{self.low:.4g}, {self.high:.4g}]" if np.isfinite(self.low) else ""
        value = f"is undefined, as {self.undefined}" if self.undefined else f"{self.value:.4g}{interval}{unit}"
        return f"{self.name} {value} ({self.n:,} {self.of}{against})"

    def __repr__(self) -> str:
        return f"Figure({self})"

    def json(self) -> dict[str, Any]:
        """As JSON has it; what is not a finite number is null."""
        return {name: None if isinstance(x, float) and not np.isfinite(x) else x for name, x in asdict(self).items()}


def bootstrap(parts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], n: int = 1000,
              seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of a statistic of sums over rows.

    parts: [rows, m], the sums that each row of the data adds; statistic: [..., m] -> [...], from summed parts to a number.
    Fewer than two rows have no interval (nan, nan).
    """
    rows = len(parts)
    if rows < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    samples = np.empty((n, parts.shape[1]))
    for start in range(0, n, 100):
        counts = random.multinomial(rows, np.full(rows, 1 / rows), size=min(100, n - start))
        samples[start: start + 100] = counts @ parts
    low, high = np.nanpercentile(statistic(samples), [2.5, 97.5])
    return float(low), float(high)


def ratio(name: str, numerator: np.ndarray, denominator: np.ndarray, transform: Callable = lambda x: x,
          seed: int = 0, **facts: Any) -> Figure:
    """A figure that is a sum over a sum, such as a mean over tokens, with its interval over rows.

    numerator, denominator: [rows]; transform: applied to the ratio, such as the exponential for perplexity.
    """
    parts = np.stack([numerator, denominator], axis=1).astype(np.float64)
    if parts[:, 1].sum() == 0:
        raise ValueError(f"{name} cannot be measured, because no token of the data counts; check its masks.")

    def statistic(sums: np.ndarray) -> np.ndarray:
        return transform(sums[..., 0] / sums[..., 1])

    low, high = bootstrap(parts, statistic, seed=seed)
    facts.setdefault("n", int(parts[:, 1].sum()))
    return Figure(name, float(statistic(parts.sum(0))), low, high, seed=seed, **facts)
