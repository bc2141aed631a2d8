"""Bets against the independence of an output and a concept: payoffs, and draws of a concept given the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..metrics.betting import wealth

QUANTILE = 0.9     # of the distances between points, which is a kernel's width
SETTLED = 100      # how many points settle the width
Sampler = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


class Seen:
    """The points of several tests so far [tests, t, d], and a Gaussian kernel with them whose width follows from them."""

    def __init__(self, points: np.ndarray):
        self.room, self.n, self.next = points, points.shape[1], 0
        self._settle()

    @property
    def points(self) -> np.ndarray:
        return self.room[:, : self.n]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The kernel of a new point of each test [tests, d] with all earlier ones: [tests, t]."""
        return self.of(x, self.points)

    def of(self, x: np.ndarray, points: np.ndarray) -> np.ndarray:
        apart = points - x[:, None]
        apart *= apart
        squared = apart[..., 0] if apart.shape[-1] == 1 else apart.sum(-1)
        squared *= -0.5 / self.width[:, None] ** 2
        return np.exp(squared, out=squared)

    def add(self, x: np.ndarray) -> None:
        if self.n == self.room.shape[1]:        # room for as many again, so that points are seldom copied
            self.room = np.concatenate([self.points, np.empty_like(self.points)], axis=1)
        self.room[:, self.n] = x
        self.n += 1
        self._settle()

    def _settle(self) -> None:
        n = self.n
        if n < self.next or self.next > SETTLED:
            return
        apart = np.sqrt(((self.points[:, :, None] - self.points[:, None]) ** 2).sum(-1)).reshape(len(self.points), -1)
        width = np.quantile(apart, QUANTILE, axis=1)
        self.width, self.next = np.where(width > 0, width, 1.0), n + max(1, n // 2)


def skit(y: np.ndarray, z: np.ndarray, j: int, *_: Any) -> Iterator[np.ndarray]:
    """Payoffs against the independence of the output and concept j: two rows, and the same with their concepts swapped."""
    y, z = y[..., None], z[..., j, None]
    ys, zs = Seen(y[:, :2]), Seen(z[:, :2])
    for t in range(2, y.shape[1] - 1, 2):
        ky, kz = ([seen(x[:, t + i]) for i in (0, 1)] for seen, x in ((ys, y), (zs, z)))

        def witness(a: int, b: int, ky: list[np.ndarray] = ky, kz: list[np.ndarray] = kz) -> np.ndarray:
            return (ky[a] * kz[b]).mean(1) - ky[a].mean(1) * kz[b].mean(1)

        yield witness(0, 0) + witness(1, 1) - witness(0, 1) - witness(1, 0)
        for i in (0, 1):
            ys.add(y[:, t + i])
            zs.add(z[:, t + i])


def c_skit(y: np.ndarray, z: np.ndarray, j: int, sampler: Sampler, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Payoffs against the independence of the output and concept j given the others: a row, and one with j drawn anew."""
    others, y = np.delete(z, j, axis=2), y[..., None]
    drawn = sampler(others.reshape(-1, others.shape[-1]), j, random).reshape(*z.shape[:2], 1)
    own = z[..., j, None]
    ys, zs, rest = Seen(y[:, :1]), Seen(own[:, :1]), Seen(others[:, :1])
    for t in range(1, y.shape[1]):
        near = ys(y[:, t]) * rest(others[:, t])
        real, null = ((near * (zs(x[:, t]) - zs.of(x[:, t], drawn[:, :t]))).mean(1) for x in (own, drawn))
        yield real - null
        for seen, x in ((ys, y), (zs, own), (rest, others)):
            seen.add(x[:, t])


def x_skit(with_it: np.ndarray, without: np.ndarray) -> np.ndarray:
    """The wealth of tests that an output has the same law with and without a concept held: [tests, steps].

    with_it, without: [tests, n], the network's outputs for rows drawn with the concept held (beside others), and without.
    """
    def payoffs() -> Iterator[np.ndarray]:
        real, null = with_it[..., None], without[..., None]
        seen = Seen(real[:, :1])
        for t in range(1, real.shape[1]):
            yield np.subtract(*((seen(x[:, t]) - seen.of(x[:, t], null[:, :t])).mean(1) for x in (real, null)))
            seen.add(real[:, t])
    return wealth(payoffs())


def fitted(z: np.ndarray) -> Sampler:
    """Draws of a concept given the others, fitted on rows [m, k]: least squares, and the residual of a row nearby.

    Residuals are drawn with Gaussian weights on the distance of the other concepts, each scaled to variance 1, as wide as
    the median distance over 2, and smoothed by Silverman's rule.
    """
    means, scales = z.mean(0), z.std(0).clip(1e-12)

    def draw(others: np.ndarray, j: int, random: np.random.Generator) -> np.ndarray:
        kept = np.delete(np.arange(z.shape[1]), j)
        known, asked = ((x - means[kept]) / scales[kept] for x in (z[:, kept], others))
        line = np.linalg.lstsq(np.c_[known, np.ones(len(known))], z[:, j], rcond=None)[0]
        residuals = z[:, j] - np.c_[known, np.ones(len(known))] @ line
        some = known[random.permutation(len(known))[:200]]
        width = np.median(np.sqrt(((some[:, None] - some) ** 2).sum(-1))) / 2
        near = np.concatenate([_nearby(part, known, width, random) for part in np.array_split(asked, len(asked) // 2000 + 1)])
        smooth = 1.06 * residuals.std() * len(residuals) ** -0.2
        return np.c_[asked, np.ones(len(asked))] @ line + residuals[near] + smooth * random.standard_normal(len(asked))

    return draw


def _nearby(asked: np.ndarray, known: np.ndarray, width: float, random: np.random.Generator) -> np.ndarray:
    """One of the known points for each asked one, drawn by a Gaussian kernel."""
    apart = (asked**2).sum(1)[:, None] + (known**2).sum(1) - 2 * asked @ known.T
    weights = np.exp(-(apart - apart.min(1, keepdims=True)) / (2 * width**2)).cumsum(1)
    return (weights < random.random((len(asked), 1)) * weights[:, -1:]).sum(1).clip(max=len(known) - 1)


def near_row(z: np.ndarray, row: int, held: list[int], width: float) -> np.ndarray:
    """The chance of drawing each row where some concepts are held near a row's: [rows], Gaussian in concepts of variance 1."""
    apart = (((z[:, held] - z[row, held]) / z[:, held].std(0).clip(1e-12)) ** 2).sum(1)
    weights = np.exp(-(apart - apart.min()) / (2 * width**2))
    return weights / weights.sum()


def width_near_row(z: np.ndarray, row: int, held: list[int]) -> float:
    """The narrowest width at which a fiftieth of the rows stand for those near a row, by their effective number."""
    widths = np.geomspace(0.05, 5, 30)
    effective = [1 / (near_row(z, row, held, width) ** 2).sum() for width in widths]
    return float(widths[next((i for i, n in enumerate(effective) if n >= len(z) / 50), -1)])


TESTS: dict[str, Callable[..., Iterator[np.ndarray]]] = {"skit": skit, "c-skit": c_skit}
ROWS = {"skit": 2, "c-skit": 1}   # rows of data for each step
