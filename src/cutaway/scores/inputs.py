"""What linear maps are given: the second moments of their inputs, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..network import At, Site
from ..network.edit import Touch
from .maps import by_site, maps_of
from .reading import Limits, Part
from .sweep import Shared

if TYPE_CHECKING:
    from ..units import Units

WIDEST = 16_384  # inputs of a map whose whole second moment is kept: 1 GiB in float32
DEAD = 1e-30

# How much of the second moment X^T X of inputs [n, in] is kept, for a map of so many units.
KEPT: dict[str, Callable[[Tensor, int], Tensor]] = {
    "norms": lambda x, n: x.square().sum(0),
    "blocks": lambda x, n: torch.einsum("tud,tue->ude", *[x.reshape(len(x), n, -1)] * 2),
    "whole": lambda x, n: x.T @ x,
}


@dataclass(frozen=True)
class Moments:
    """Sums over kept positions: whichever of norms [in], blocks [units, d, d] and whole [in, in] the scores ask for."""

    sums: dict[str, Tensor]
    n: int

    @property
    def norms(self) -> Tensor:
        """The Euclidean norm of each input over all positions, [in]."""
        return self.sums["norms"].sqrt()

    @property
    def blocks(self) -> Tensor:
        """The mean of x x^T over positions for the inputs of each unit, [units, d, d]."""
        return self.sums["blocks"] / self.n

    @cached_property
    def inverse_diagonal(self) -> Tensor:
        """The diagonal of H^-1 with H = 2 / n X^T X + 1% of its mean diagonal, [in]; infinite for inputs that are always 0.

        So that no weight of a dead input is worth anything, as in SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774),
        whose code divides by sequences and not by positions, which changes all weights of a map alike.
        """
        h = 2 / self.n * self.sums["whole"].double()
        diagonal = h.diagonal()
        dead = diagonal <= DEAD
        h = h + torch.diag(dead.double() + 0.01 * diagonal.mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(h)).diagonal()
        return torch.where(dead, torch.inf, inverse)


class Inputs:
    """What the linear maps of a table's units are given.

    A score says by its `keeps` which part of the second moment it needs, and is called with the map and the moments.
    """

    backward = False
    reference = None

    def __init__(self, units: Units, data: Any, limits: Limits, scores: Sequence[Shared]):
        self.units, self.scores, self.maps = units, scores, maps_of(units)
        self.leaves: list[Tensor] = []
        self.keeps = dict.fromkeys(score.how["keeps"] for score in scores)
        self.sums: dict[str, dict[str, Tensor]] = {name: {} for name in self.maps}
        self.n = dict.fromkeys(self.maps, 0)
        for name in self.maps if "whole" in self.keeps else []:
            width = self.maps[name].weight.shape[1]
            if width > WIDEST:
                which = ", ".join(score.__name__ for score in scores if score.how["keeps"] == "whole")
                raise ValueError(f"{which} would keep a table of {width:,} x {width:,} numbers for {name}, and at most "
                                 f"{WIDEST:,} inputs are taken; use wanda there, which keeps one number for each.")

    def watching(self, part: Part) -> dict[Site, Touch]:
        net = self.units.net
        return {net.site(f"{self.maps[name].path}:in"): self._touch(name, part) for name in part.members}

    def _touch(self, name: str, part: Part) -> Touch:
        @torch.no_grad()
        def touch(x: Tensor, at: At) -> None:
            x = self.maps[name].inputs(x.detach(), part.batch.keep)
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            if not bool(torch.isfinite(x).all()):
                raise ValueError(f"what {self.maps[name].path} is given holds NaN or infinity; look for it in the network's "
                                 "weights or inputs.")
            for kept in self.keeps:
                new = KEPT[kept](x, self.maps[name].size)
                self.sums[name][kept] = self.sums[name].get(kept, 0) + new
            self.n[name] += len(x)
        return touch

    def passed(self, part: Part) -> None:
        pass

    @torch.no_grad()
    def columns(self) -> list[np.ndarray]:
        moments = {name: Moments(sums, max(self.n[name], 1)) for name, sums in self.sums.items()}
        return [by_site(self.units, lambda name, each=score.each: each(self.maps[name], moments[name]))  # type: ignore[misc]
                for score in self.scores]
