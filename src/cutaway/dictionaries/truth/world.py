"""A world: a process that makes activations out of known features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Strengths = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True, eq=False)
class Firing:
    """Which features fire together, and how strongly.

    rate: [m], how often each would fire if no parent held it back. mean, spread: [m], of the strengths, which are cut off
    at 0. parents: [m], the feature without which one never fires, or -1. exclusive: of siblings that would fire, a random
    one does. scaled: a child is as strong as its parent is, relative to the parent's mean. factor: [m, rank], loadings of
    a Gaussian copula: feature i fires when factor_i . e + sqrt(1 - |factor_i|^2) * own noise passes the quantile of its rate.
    """

    rate: Tensor
    mean: Tensor
    spread: Tensor
    parents: Tensor
    exclusive: bool = True
    scaled: bool = False
    factor: Tensor | None = None

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """Strengths [n, m], 0 where a feature does not fire."""
        m = len(self.rate)
        strength = self._fires(n, generator) * (self.mean + self.spread * torch.randn(n, m, generator=generator)).relu()
        for level in self._levels():
            above = self.parents[level]
            parent, own = strength[:, above], strength[:, level]
            own = own * (parent / self.mean[above] if self.scaled else parent.gt(0))
            if self.exclusive:
                lot = torch.rand(own.shape, generator=generator) * own.gt(0)
                best = lot.new_zeros(n, m).scatter_reduce(1, above.expand(n, -1), lot, "amax")
                own = torch.where(lot == best[:, above], own, 0)
            strength[:, level] = own
        return strength

    def _fires(self, n: int, generator: torch.Generator) -> Tensor:
        m = len(self.rate)
        if self.factor is None:
            return torch.rand(n, m, generator=generator) < self.rate
        shared = torch.randn(n, self.factor.shape[1], generator=generator) @ self.factor.T
        own = (1 - self.factor.pow(2).sum(1)).sqrt() * torch.randn(n, m, generator=generator)
        return shared + own > torch.special.ndtri(1 - self.rate.double()).float()

    def _levels(self) -> list[Tensor]:
        """The children of roots, their children, and so on: indices of features."""
        level, found = self.parents < 0, list[Tensor]()
        while True:
            level = (self.parents >= 0) & level[self.parents.clamp(min=0)]
            if not level.any():
                return found
            found.append(level.nonzero().flatten())


def compensated(rate: Tensor, parents: Tensor, exclusive: bool = True) -> Tensor:
    """The rates [m], given the parent, with which features fire about as often as `rate` says in spite of parents and siblings.

    As `sae_lens` does: rate / rate of the parent, times 1 + the other siblings' rates over the parent's; at most 1.
    """
    child = parents >= 0
    of_parent = torch.where(child, rate[parents.clamp(min=0)], 1.0)
    family = torch.zeros_like(rate).index_add(0, parents[child], rate[child])
    others = torch.where(child, family[parents.clamp(min=0)] - rate, 0.0) if exclusive else torch.zeros_like(rate)
    return (rate / of_parent * (1 + others.clamp(min=0) / of_parent)).clamp(max=1.0)


@dataclass(frozen=True)
class Sample:
    """x: [n, d]; strength: [n, m], how strongly each feature is there, at least 0."""

    x: Tensor
    strength: Tensor


@dataclass(frozen=True, eq=False)
class World:
    """Activations x [n, d] that are sums of features: x = bias + sum_i strength_i * point_i @ frames_i.

    frames: [m, r, d], orthonormal rows: a feature is a direction (r = 1) or a manifold in r dimensions. point_i is 1, or
    where `spheres` is set a random point of the unit sphere: -1 or 1 for r = 1, a circle for r = 2. strengths: the process
    that gives [n, m]. parents: [m], as in `Firing`. write: strengths [n, m] and the generator -> x, where x is no such sum;
    frames are then what each feature writes alone.
    """

    name: str
    frames: Tensor
    strengths: Strengths
    bias: Tensor
    parents: Tensor
    spheres: bool = False
    write: Callable[[Tensor], Tensor] | None = None

    @property
    def m(self) -> int:
        return len(self.frames)

    @property
    def d(self) -> int:
        return self.frames.shape[-1]

    def sample(self, n: int, seed: int | torch.Generator = 0) -> Sample:
        """n activations and what they are made of."""
        generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
        strength = self.strengths(n, generator)
        if self.write is not None:
            return Sample(self.write(strength), strength)
        if not self.spheres:
            return Sample(self.bias + strength @ self.frames[:, 0], strength)
        point = torch.randn(n, *self.frames.shape[:2], generator=generator)
        point = point / point.norm(dim=-1, keepdim=True).clamp(min=1e-30) * strength[..., None]
        return Sample(self.bias + point.flatten(1) @ self.frames.flatten(0, 1), strength)

    def samples(self, n: int, batch: int, seed: int) -> Iterator[Sample]:
        """n activations in batches, from one stream of random numbers."""
        generator = torch.Generator().manual_seed(seed)
        for start in range(0, n, batch):
            yield self.sample(min(batch, n - start), generator)

    def cosines(self, rows: Tensor) -> Tensor:
        """rows: [width, d] -> [width, m]: the cosine of each row with its projection on each feature's frame.

        For directions this is the absolute cosine.
        """
        rows = torch.nn.functional.normalize(rows.detach().float(), dim=1)
        return (rows @ self.frames.flatten(0, 1).T).view(len(rows), *self.frames.shape[:2]).norm(dim=-1)
