"""How a factor that decides how much fires is moved until the wanted number of latents does."""

from __future__ import annotations

from math import exp, log

from torch import Tensor

MOST = 0.5    # the largest miss in the logarithm of L0 that a step answers to


def steer(factor: Tensor, found: float, l0: float, gain: float, bounds: tuple[float, float]) -> None:
    """Move a factor [1] in place after a batch whose L0 was `found`, by exp(-gain * log(found / l0)); a negative gain where
    more of it fires less."""
    miss = min(max(log(max(found, 0.1) / l0), -MOST), MOST)
    factor.mul_(exp(-gain * miss)).clamp_(*bounds)
