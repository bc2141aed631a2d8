"""What is left of a unit that is taken away: zero, a mean, a blur, or what the user gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLUR = (11, 5.0)     # width and sigma of the blur that RISE inserts into (arXiv 1806.07421)


def baseline_of(asked: Any, x: Tensor, keep: Tensor | None) -> tuple[Tensor, str]:
    """A baseline for x, and what it is in words."""
    if isinstance(asked, str):
        if asked not in BASELINES or (asked == "blur" and x.ndim != 4):
            raise ValueError(f"a baseline is {', '.join(BASELINES)} (blur for images), a number or a tensor; found {asked!r}.")
        return BASELINES[asked](x, keep), asked
    value = torch.as_tensor(asked).to(x)
    try:
        return value.expand_as(x), f"{float(value):g}" if value.ndim == 0 else "given"
    except RuntimeError as error:
        raise ValueError(f"the baseline has the shape {list(value.shape)}, which does not broadcast to the input's "
                         f"{list(x.shape)}.") from error


def _mean(x: Tensor, keep: Tensor | None) -> Tensor:
    """Of a text the mean over its tokens that count, of an image its mean colour, of plain inputs the mean over the rows."""
    if keep is not None:
        counts = keep[..., None].to(x)
        return ((x * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True)).expand_as(x)
    return (x.mean((2, 3), keepdim=True) if x.ndim == 4 else x.mean(0)).expand_as(x)


def blur(x: Tensor) -> Tensor:
    """Images [rows, channels, height, width], blurred by a Gaussian of 11 pixels with a sigma of 5, edges reflected."""
    size, sigma = BLUR
    kernel = torch.exp(-(torch.arange(size, device=x.device) - size // 2).to(x) ** 2 / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    for axis in (2, 3):
        moved = x.movedim(axis, -1)
        flat = moved.reshape(-1, 1, x.shape[axis])
        half = min(size // 2, x.shape[axis] - 1)
        near = kernel[..., size // 2 - half: size // 2 + half + 1]
        flat = F.conv1d(F.pad(flat, (half, half), mode="reflect"), near / near.sum())
        x = flat.reshape(moved.shape).movedim(-1, axis)
    return x


BASELINES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "zero": lambda x, keep: torch.zeros_like(x), "mean": _mean, "blur": lambda x, keep: blur(x)}


def checked(baseline: Tensor, x: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the input's numbers hold NaN or infinity; look into the network's weights and the input.")
    if not bool(torch.isfinite(baseline).all()):
        raise ValueError("the baseline holds NaN or infinity.")
    same = (baseline == x).flatten(1).all(1)
    if bool(same.any()):
        raise ValueError(f"the baseline is the input itself in row {int(same.nonzero()[0])}, so nothing can be taken away; "
                         "give another baseline=, such as 'zero'.")
    return baseline
