"""How well sparse codes reconstruct activations, streamed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .figure import Figure, bootstrap, ratio

DENSE = 0.1  # a latent that fires for more than this share of tokens is dense


class Reconstruction:
    """Streaming sums over rows of data: x and its reconstruction, in float64.

    FVU = sum |x - x_hat|^2 / sum |x - mean(x)|^2, with the mean of each dimension over the whole sample, so that a constant
    predictor at the mean has an FVU of exactly 1.
    """

    def __init__(self, width: int):
        self.rows: list[np.ndarray] = []          # of each row: n, |x - x_hat|^2, |x|^2, cosine, L0, |x_hat|
        self.sum: Tensor | float = 0.0
        self.fired = torch.zeros(width, dtype=torch.int64)
        self.n = 0

    def update(self, x: Tensor, reconstruction: Tensor, codes: Any) -> None:
        """x, reconstruction: [n, d], one row of the data; codes of the same n activations."""
        x, reconstruction = x.double(), reconstruction.double()
        error = (x - reconstruction).pow(2).sum(-1)
        lengths, made = x.norm(dim=-1), reconstruction.norm(dim=-1)
        cosine = (x * reconstruction).sum(-1) / (lengths * made).clamp(min=1e-300)
        self.rows.append(np.array([len(x), *(float(v.sum()) for v in (
            error, lengths**2, cosine, codes.l0.double(), made / lengths.clamp(min=1e-300)))]))
        self.sum = self.sum + x.sum(0)
        self.fired += codes.counts(len(self.fired)).cpu()
        self.n += len(x)

    @property
    def frequency(self) -> Tensor:
        """How often each latent fires: [width]."""
        return self.fired / max(self.n, 1)

    def figures(self, **facts: Any) -> dict[str, Figure]:
        """FVU, L0, cosine, norm ratio, and the shares of latents that are dead and dense."""
        if self.n == 0:
            raise ValueError("no activation counts, so nothing can be measured; check the data's masks.")
        parts = np.stack(self.rows)
        mean = torch.as_tensor(self.sum) / self.n
        mean_square = float(mean.pow(2).sum())

        def fvu(sums: np.ndarray) -> np.ndarray:
            return sums[..., 1] / (sums[..., 2] - sums[..., 0] * mean_square)

        low, high = bootstrap(parts, fvu)
        n, columns = parts[:, 0], {"cosine": 3, "l0": 4, "norm_ratio": 5}
        made = {"fvu": Figure("fvu", float(fvu(parts.sum(0))), low, high, self.n, **facts,
                              baseline="the mean of each dimension")}
        made.update({name: ratio(name, parts[:, i], n, n=self.n, **facts) for name, i in columns.items()})
        for name, share in (("dead", self.fired == 0), ("dense", self.frequency > DENSE)):
            made[name] = Figure(name, float(share.float().mean()), float("nan"), float("nan"), len(self.fired),
                                of=f"latents over {self.n:,} tokens", **facts)
        return made


@torch.no_grad()
def fidelity(dictionary: Any, x: Tensor) -> dict[str, float]:
    """FVU (the normalised squared error, NMSE), L0 and the share of dead latents on activations [n, d] in memory."""
    seen = Reconstruction(dictionary.width)
    for part in x.split(1024):
        codes = dictionary.encode(part)
        seen.update(part, dictionary.decode(codes), codes)
    found = seen.figures()
    return {name: found[name].value for name in ("fvu", "l0", "dead")}
