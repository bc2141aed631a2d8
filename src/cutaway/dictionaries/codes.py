"""A sparse code: which latents fire for each token, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """values and indices: [..., k]; a value of zero says that its latent does not fire. Indices in a row differ where it does.

    aside: [..., k], or [n, 1] for one number a token: what a sparsifier's own loss terms read besides, such as whether a latent
    fires, with a gradient.
    """

    values: Tensor
    indices: Tensor
    aside: Tensor | None = None

    def dense(self, width: int) -> Tensor:
        """[..., width]; for small things and for tests."""
        return self.values.new_zeros(*self.values.shape[:-1], width).scatter_add(-1, self.indices, self.values)

    @property
    def l0(self) -> Tensor:
        """How many latents fire for each token: [...]."""
        return (self.values != 0).sum(-1)

    def counts(self, width: int) -> Tensor:
        """How many tokens each latent fires for: [width]."""
        fires = (self.values != 0).flatten().to(torch.int64)
        return fires.new_zeros(width).index_add(0, self.indices.flatten(), fires)

    def of(self, latent: int) -> Tensor:
        """The activation of one latent for each token: [...]."""
        return torch.where(self.indices == latent, self.values, 0).sum(-1)
