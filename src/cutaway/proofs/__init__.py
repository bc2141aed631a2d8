"""One runnable claim for each method: a paired comparison on this machine, with its figures, interval and time."""

from .proof import Comparison, Proof, compare
from .running import prove, read, table

__all__ = ["Comparison", "Proof", "compare", "prove", "read", "table"]
