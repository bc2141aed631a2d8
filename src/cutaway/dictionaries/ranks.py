"""What a loss must know of other processes that train the same dictionary."""

from __future__ import annotations

from torch import Tensor


class Ranks:
    """The processes that train a dictionary together. This class is one that is alone: it has all rows and all latents."""

    def over_latents(self, total: Tensor) -> Tensor:
        """What was summed over the latents that a process holds, summed over all latents."""
        return total

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all rows of a batch, of which x [n, ...] are a process's own."""
        return x.mean(0)
