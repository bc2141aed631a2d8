"""Methods against each other, on the same data, with the same budget."""

from .dictionaries import QUICK, Plan, bench, kept
from .table import report

__all__ = ["QUICK", "Plan", "bench", "kept", "report"]
