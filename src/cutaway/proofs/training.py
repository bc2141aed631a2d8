"""One step of training a small network, which several proofs take."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor


def follow(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any, most: float | None = None) -> None:
    """Follow the gradient of a loss; most: the norm to which the whole gradient is cut, where it is greater."""
    optimizer.zero_grad()
    loss.backward()
    if most is not None:
        torch.nn.utils.clip_grad_norm_(chain.from_iterable(group["params"] for group in optimizer.param_groups), most)
    optimizer.step()
    schedule.step()
