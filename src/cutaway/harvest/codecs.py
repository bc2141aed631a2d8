"""How an activation becomes bytes and comes back, for each dtype of a harvest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEAST_SPREAD = 1e-3     # of the mean spread: no dimension is so still that a surprise in it would coarsen all others


@dataclass(frozen=True)
class Calibration:
    """Where the values of a site lie: centre [d] and spread [d], the mean and standard deviation of a first sample."""

    centre: Tensor
    spread: Tensor

    def to(self, device: torch.device) -> Calibration:
        return Calibration(self.centre.to(device), self.spread.to(device))


def calibrate(x: Tensor) -> Calibration:
    """The calibration of a sample x [n, d]; a spread of 0 becomes a small one, or 1 where all are 0."""
    x = x.double()
    spread = x.std(0, correction=0)
    mean = spread.pow(2).mean().sqrt()
    spread = spread.clamp(min=LEAST_SPREAD * mean) if mean > 0 else torch.ones_like(spread)
    return Calibration(x.mean(0).float(), spread.float())


@dataclass(frozen=True)
class Codec:
    """row_bytes: bytes of a row of d values; encode: float32 [n, d] -> uint8 [n, row_bytes]; decode: the way back."""

    row_bytes: Callable[[int], int]
    encode: Callable[[Tensor, Calibration], Tensor]
    decode: Callable[[Tensor, Calibration], Tensor]
    layout: str


def _int8(x: Tensor, calibration: Calibration) -> Tensor:
    z = (x - calibration.centre) / calibration.spread
    scale = (z.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.cat([scale.view(torch.uint8), (z / scale).round().to(torch.int8).view(torch.uint8)], dim=1)


def _from_int8(rows: Tensor, calibration: Calibration) -> Tensor:
    scale = rows[:, :4].contiguous().view(torch.float32)
    x = rows[:, 4:].view(torch.int8).float().mul_(scale)
    return torch.addcmul(calibration.centre, x, calibration.spread, out=x)


# One scale a token alone would let a few dimensions that are always large take all of the 8 bits.
CODECS = {
    "float32": Codec(lambda d: 4 * d, lambda x, _: x.contiguous().view(torch.uint8), lambda rows, _: rows.view(torch.float32),
                     "d float32 a token"),
    "bfloat16": Codec(lambda d: 2 * d, lambda x, _: x.bfloat16().view(torch.uint8),
                      lambda rows, _: rows.view(torch.bfloat16).float(), "d bfloat16 a token"),
    "int8": Codec(lambda d: d + 4, _int8, _from_int8,
                  "float32 scale and d int8 a token; x = centre + spread * scale * int8, with the site's centre and spread [d] "
                  "in calibration.safetensors"),
}


def codec_of(dtype: str) -> Codec:
    """The codec of a name; an unknown one is refused."""
    if dtype not in CODECS:
        raise ValueError(f"a harvest holds {', '.join(CODECS)}; found the dtype {dtype!r}.")
    return CODECS[dtype]


def decoded(rows: np.ndarray, dtype: str, calibration: Calibration) -> Tensor:
    """Rows of bytes [n, row_bytes] as float32 [n, d], on the device of the calibration."""
    flat = torch.from_numpy(rows.reshape(-1)).to(calibration.centre.device)
    return CODECS[dtype].decode(flat.view(rows.shape), calibration)
