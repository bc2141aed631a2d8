"""How sensitive the metric is to each weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from ..network import At, Site
from ..network.edit import Touch
from .maps import Map, by_site, maps_of, without_weights
from .reading import Limits, Part
from .sweep import Shared, shared

if TYPE_CHECKING:
    from ..units import Units


class WeightGradients:
    """The metric's gradient in the weights of the maps that a table's units belong to, summed over all rows.

    A score is called with the map and the gradient's mean over rows [out, in]. The network's own parameters are left alone:
    for the length of a pass a copy that shares their memory stands in for them.
    """

    backward = True
    reference = None

    def __init__(self, units: Units, data: Any, limits: Limits, scores: Sequence[Shared]):
        self.units, self.scores, self.maps = units, scores, maps_of(units)
        self.sums = {name: torch.zeros_like(map.module.weight) for name, map in self.maps.items()}
        self.leaves: list[Tensor] = []
        self.rows = 0

    def watching(self, part: Part) -> dict[Site, Touch]:
        self.leaves.clear()
        net = self.units.net
        return {net.site(f"{self.maps[name].path}:weight"): self._touch(name) for name in part.members}

    def _touch(self, name: str) -> Touch:
        def take(leaf: Tensor) -> None:
            self.sums[name] += leaf.grad.detach()  # type: ignore[union-attr]
            leaf.grad = None

        def touch(weight: Tensor, at: At) -> Tensor:
            leaf = weight.detach().requires_grad_()
            leaf.register_post_accumulate_grad_hook(take)
            self.leaves.append(leaf)
            return leaf
        return touch

    def passed(self, part: Part) -> None:
        self.rows += len(part.batch.rows)

    @torch.no_grad()
    def columns(self) -> list[np.ndarray]:
        def of(name: str, score: Shared) -> Tensor:
            map = self.maps[name]
            return score.each(map, map.like_weight(self.sums[name] / max(self.rows, 1)))
        return [by_site(self.units, lambda name, score=score: of(name, score)) for score in self.scores]  # type: ignore[misc]


@method("snip", family="score", title="Sensitivity of the metric to each weight", refuses=without_weights,
        paper="Lee et al. 2018, arXiv:1810.02340")
@shared(WeightGradients, backward=True)
def snip(map: Map, gradient: Tensor) -> Tensor:
    """|w_ij times d metric / d w_ij|, with the gradient's mean over all rows, summed over a unit's weights: [units].

    The paper divides by the sum over all weights, which changes no order, and asks before training, where the mean gradient
    is large; of a trained network it is small, and rows of either sign cancel.
    """
    return map.units((map.weight * gradient).abs())
