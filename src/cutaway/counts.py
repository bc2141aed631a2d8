"""Counts as people write them."""

from __future__ import annotations

SCALES = {"k": 1e3, "m": 1e6, "b": 1e9}


def count_of(text: int | float | str) -> int:
    """A count such as 500_000, 5e5, "500k", "2M" or "1.5B"."""
    if isinstance(text, int):
        return text
    said = str(text).strip().lower()
    scale = SCALES.get(said[-1:], 1.0)
    try:
        return round(float(said[:-1] if said[-1:] in SCALES else said) * scale)
    except (ValueError, OverflowError):
        raise ValueError(f"a number of tokens looks like 500000, 500k or 2M; found {text!r}.") from None
