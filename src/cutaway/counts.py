"""Counts as people write them."""

from __future__ import annotations


def count_of(text: int | str) -> int:
    """A count such as 500_000, "500k", "2M" or "1.5B"."""
    if isinstance(text, int):
        return text
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:].lower(), 1)
    try:
        return int(float(text.rstrip("kKmMbB").replace("_", "")) * scale)
    except ValueError:
        raise ValueError(f"a number of tokens looks like 500000, 500k or 2M; found {text!r}.") from None
