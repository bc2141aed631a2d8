"""Codes that are the best non-negative combination of the decoder's rows, whatever the encoder is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .codes import Codes
from .parts import sparsifier

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("non-negative")
@dataclass(frozen=True)
class NonNegative:
    """argmin over z >= 0 of |x - b_dec - z W_dec|^2, by accelerated projected gradients, and of z the k largest.

    k: how many are kept, by the norm of what they write; none keeps all that are positive. The kept ones are fitted again.
    For small dictionaries: it goes through dense codes [n, width].
    """

    k: int | None = None
    steps: int = 100

    @torch.no_grad()
    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        x, rows = x - d.b_dec, d.W_dec
        z = fitted(x, rows, self.steps)
        k = min(self.k or d.width, d.width)
        if k < d.width:
            indices = (z * rows.norm(dim=1)).topk(k, sorted=False).indices
            kept = torch.zeros_like(z).scatter(1, indices, 1)
            z = fitted(x, rows, self.steps, kept)
        else:
            indices = torch.arange(d.width).expand(len(x), -1)
        return Codes(z.gather(1, indices), indices)


def fitted(x: Tensor, rows: Tensor, steps: int, allowed: Tensor | None = None) -> Tensor:
    """Non-negative z [n, width] with the least |x - z @ rows|^2, zero where not `allowed` (FISTA, Beck and Teboulle 2009)."""
    gram, target = rows @ rows.T, x @ rows.T
    rate = 1 / torch.linalg.matrix_norm(gram, 2).clamp(min=1e-12)
    z = momentum = torch.zeros_like(target)
    t = 1.0
    for _ in range(steps):
        new = (momentum - rate * (momentum @ gram - target)).relu()
        if allowed is not None:
            new = new * allowed
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        momentum, z, t = new + (t - 1) / after * (new - z), new, after
    return z
