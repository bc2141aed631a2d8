"""The one training loop: many dictionaries and sites in a pass, with exact resume."""

from .learn import learn
from .learner import Settings
from .run import Run, load
from .schedule import Schedule

__all__ = ["Run", "Schedule", "Settings", "learn", "load"]
