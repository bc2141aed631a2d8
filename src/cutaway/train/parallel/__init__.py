"""Training on many devices with torchrun: `together` gives what a process is to the others.

`data`, `width` and `sites` are the three ways to split the work, `alone` is what they build on, `group` how ranks talk, `watch`
how they notice that one is lost, `sources` what each reads, and `folders` and `states` their checkpoints.
"""

from .alone import Alone
from .start import SPLITS, together

__all__ = ["SPLITS", "Alone", "together"]
