"""What tells two networks apart: a hash of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .network import Network


@torch.no_grad()
def fingerprint(net: Network) -> str:
    """16 hexadecimal digits that change with any parameter or buffer, its name, its shape or its type."""
    import xxhash
    state = xxhash.xxh3_64(type(net.module).__name__.encode())
    tensors: dict[str, Any] = net.module.state_dict()
    for name, x in sorted((name, x) for name, x in tensors.items() if isinstance(x, Tensor)):
        state.update(f"\n{name} {x.dtype} {list(x.shape)}\n".encode())
        # One tensor at a time is copied to the CPU, so that a network on an accelerator needs no second home.
        state.update(x.detach().reshape(-1).cpu().contiguous().view(torch.uint8).numpy().data)
    return state.hexdigest()
