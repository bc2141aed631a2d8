"""Importance of a network's own parts: one file a method, all columns of the units table, each with its trust."""

from .column import Column, run
from .exact import exact
from .path import path
from .trust import Trust, trust_table, trusts

__all__ = ["Column", "Trust", "exact", "path", "run", "trust_table", "trusts"]
