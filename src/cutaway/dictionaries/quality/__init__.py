"""How good a dictionary is, honestly: every figure stands between a floor and a ceiling that were measured beside it."""

from .contract import Metric, Sums, Undefined
from .profile import METRICS, Line, Profile, profile

__all__ = ["METRICS", "Line", "Metric", "Profile", "Sums", "Undefined", "profile"]
