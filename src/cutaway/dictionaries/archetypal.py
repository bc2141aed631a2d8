"""Archetypal dictionaries: every row is a mixture of points of the data, so that trainings end with nearly the same rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..catalogue import method
from .dictionary import Dictionary
from .recipe import Recipe, geometric_median, start_encoder, unit
from .topk import TopK
from .wiring import Row, Wiring

STEPS = 8     # of k-means, from which the points come


@dataclass(frozen=True)
class Archetypes(Wiring):
    """A dictionary of one site whose rows lie in the cone of some points of the data, or near it.

    points: how many; delta: how far a row may leave their convex hull, as a share of the points' mean norm.
    """

    points: int
    delta: float

    def build(self, recipe: Recipe, row: Row, sample: Tensor, generator: torch.Generator) -> Hull:
        made = Hull(row.widths[0], recipe.width, recipe.sparsify, self.points, self.delta)
        with torch.no_grad():
            made.b_dec.copy_(geometric_median(sample[:8192]))
            made.points.copy_(centroids(sample - made.b_dec, self.points, generator))
            made.mix.copy_(torch.eye(recipe.width, self.points))
            spare = made.mix[self.points:]      # latents beyond the points begin as mixtures of two
            for _ in range(2):
                chosen = torch.randint(self.points, (len(spare), 1), generator=generator)
                spare.scatter_add_(1, chosen, torch.full((len(spare), 1), 0.5))
        start_encoder(made, made.W_dec.detach(), sample)
        return made

    def fill(self, made: Any, tensors: dict[str, Tensor]) -> None:
        hull = Hull(made.d, made.width, made.sparsify, self.points, self.delta)
        hull.load_state_dict(tensors)
        made.load_state_dict({**{name: value for name, value in tensors.items() if name in made.state_dict()},
                              "W_dec": hull.W_dec.detach()})


class Hull(Dictionary):
    """A dictionary in training whose rows are unit(mix @ points + deviation): mix [width, m] with rows that sum to 1, without
    negative numbers; points [m, d] of the data less b_dec, which stay as they are; deviation [width, d] of bounded norm."""

    def __init__(self, d: int, width: int, sparsify: Any, points: int, delta: float):
        super().__init__(d, width, sparsify)
        self.delta = delta
        self.points = nn.Parameter(torch.zeros(points, d), requires_grad=False)
        self.mix = nn.Parameter(torch.zeros(width, points))
        self.deviation = nn.Parameter(torch.zeros(width, d)) if delta else None

    def _make_rows(self, width: int, d: int) -> None:
        """They are made from the points whenever they are asked for."""

    @property
    def W_dec(self) -> Tensor:  # type: ignore[override]
        rows = self.mix @ self.points
        return unit(rows if self.deviation is None else rows + self.deviation)

    @torch.no_grad()
    def settle(self) -> None:
        mix = self.mix.data.relu_()
        mix.div_(mix.sum(1, keepdim=True).clamp(min=1e-12))
        if self.deviation is not None:
            most, size = self.delta * self.points.norm(dim=1).mean(), self.deviation.norm(dim=1, keepdim=True)
            self.deviation.data.mul_((most / size.clamp(min=1e-12)).clamp(max=1.0))


def centroids(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n centres of x [m, d] by a few steps of k-means from random activations; one that nothing is near stays where it is."""
    if n > len(x):
        raise ValueError(f"{n} points are more than the {len(x)} activations that training begins from; take fewer points.")
    centers = x[torch.randperm(len(x), generator=generator)[:n]].clone()
    for _ in range(STEPS):
        nearest = torch.cat([(part @ centers.T - centers.pow(2).sum(1) / 2).argmax(1) for part in x.split(2048)])
        sums, counts = torch.zeros_like(centers).index_add_(0, nearest, x), torch.bincount(nearest, minlength=n)
        centers = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centers)
    return centers


@method("archetypal", family="dictionary", paper="arXiv 2502.12892",
        title="Archetypal SAE: adaptive and stable dictionary learning for concept extraction in large vision models")
def Archetypal(width: int = 4096, k: int = 32, points: int | None = None, aux: float = 1 / 32, dead_after: int | None = None,
               lr: float | None = None) -> Recipe:
    """TopK whose decoder rows are mixtures of points of the data, which makes them stable from one training to the next.

    D = W A: A are the centres of k-means on a sample, W has rows that sum to 1 without negative numbers (section 4); loss =
    FVU + aux * AuxK. Rows are scaled to norm 1, so that they lie in the cone of the points about b_dec.

    width: latents. k: how many fire for each token. points: of the data; left out, as many as latents. aux, dead_after, lr:
    as for TopK. A step costs width * points * d more than one of TopK.
    Differs from the authors' code: points are taken from the decoder's bias, and rows scaled, in place of a learned scale.
    """
    return _recipe("archetypal", width, k, points, 0.0, aux, dead_after, lr)


@method("relaxed-archetypal", family="dictionary", paper="arXiv 2502.12892",
        title="Archetypal SAE: adaptive and stable dictionary learning for concept extraction in large vision models")
def RelaxedArchetypal(width: int = 4096, k: int = 32, points: int | None = None, delta: float = 1.0, aux: float = 1 / 32,
                      dead_after: int | None = None, lr: float | None = None) -> Recipe:
    """An archetypal dictionary whose rows may leave the mixtures of data points by a bounded step.

    D = W A + L with |L_i| <= delta times the points' mean norm, and the rest as for Archetypal.

    width: latents. k: how many fire for each token. points: of the data; left out, as many as latents. delta: the authors' 1
    leaves much freedom. aux, dead_after, lr: as for TopK.
    """
    if delta <= 0:
        raise ValueError(f"delta is above 0, and Archetypal is the one without; found {delta}.")
    return _recipe("relaxed-archetypal", width, k, points, delta, aux, dead_after, lr)


def _recipe(name: str, width: int, k: int, points: int | None, delta: float, aux: float, dead_after: int | None,
            lr: float | None) -> Recipe:
    if points is not None and points < 1:
        raise ValueError(f"there is at least one point; found points={points}.")
    plain = TopK(width, k, aux, dead_after, None, lr)
    return replace(plain, name=name, unit_norm=False, wiring=Archetypes(points or width, delta))
