"""What a score gives: a column of the units table, and the facts without which it is only numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .reading import Metric, Reader, metric_name

if TYPE_CHECKING:
    from ..units import Units


@dataclass(frozen=True)
class Column:
    """values: one number for each row of the table; about: metric, data, n, seed, reference and the options."""

    values: np.ndarray
    about: dict[str, Any]


def facts(method: str, reader: Reader, reference: str | None, metric: Metric | None, **options: Any) -> dict[str, Any]:
    """What a score says about itself, ready for JSON; metric and reference are none for scores that use none."""
    return {"method": method, "metric": None if metric is None else metric_name(metric), "data": reader.data.name,
            "fingerprint": reader.data.fingerprint, "rows": reader.rows, "tokens": reader.tokens,
            "reference": reference, "seed": reader.limits.seed, "network": reader.units.net.name,
            "options": options}


def facts_without_data(method: str, units: Units, **options: Any) -> dict[str, Any]:
    """What a score of parameters alone says about itself."""
    return {"method": method, "metric": None, "data": "no data", "fingerprint": "", "rows": 0, "tokens": 0,
            "reference": None, "seed": None, "network": units.net.name, "options": options}
