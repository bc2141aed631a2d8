"""The JumpReLU sparsifier of finished dictionaries; `jumprelu` is the method that learns the thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import kernels
from .codes import Codes
from .parts import sparsifier

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("jumprelu")
@dataclass(frozen=True)
class Jump:
    """All pre-activations above their latent's threshold: z * (z > threshold) (arXiv 2407.14435, equation 3).

    The thresholds [width], at least 0, are `dictionary.extra["threshold"]`, in the units of the pre-activations. For
    inference: no gradient reaches the thresholds from here.
    """

    units: ClassVar[tuple[str, ...]] = ("threshold",)

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(width)}

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        return Codes(*kernels.encode_above(x, d.W_enc, d.b_enc, d.extra["threshold"], d.b_dec))
