"""The one training loop: many dictionaries and sites in a pass, with exact resume."""

from .learn import learn
from .run import Run, load

__all__ = ["Run", "learn", "load"]
