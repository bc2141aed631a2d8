"""The residual stream, as the analyses of whole networks read it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...network import Network


def stream(net: Network) -> list[str]:
    """The sites of the residual stream, from before the first block to after the last.

    Raises ValueError for a network without blocks of tokens.
    """
    if net.family is None or net.family.axes != "b t u":
        raise ValueError(f"{net.name} has no residual stream of tokens that Cutaway knows by name; give a transformer of a "
                         "known family.")
    return ["embed", *(f"blocks.{i}" for i in range(net.n_blocks))]


def kept(batch: Any, x: Tensor) -> Tensor:
    """Which tokens of a site's tensor x [b, t, ...] count: bool [b, t]; all of them where the batch does not say."""
    keep = batch.keep
    if keep is None or keep.shape != x.shape[:2]:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return keep.to(x.device)


def checked(x: Tensor, site: str) -> Tensor:
    """The same tensor, if all of it is finite."""
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{site} holds NaN or infinity; look for it in the network's weights or inputs.")
    return x
