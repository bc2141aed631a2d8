"""At which depth a network knows something: a probe on every layer, and where its accuracy jumps and settles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..catalogue import method
from ..dictionaries.quality.probes import accuracy, balanced, fit
from ..network import Network
from ..observe import activations

JUMP, FLAT, PEAK = 1.1, 0.03, 0.01       # the paper's two thresholds, and how near to the best accuracy counts as the peak
TEST = 0.4
STRENGTH = 1e-2


@dataclass(frozen=True)
class Depth:
    """The accuracy of a probe on each layer, from the embedding (0) to the last block (n_blocks), on `n` test tokens.

    error: the standard error of each accuracy. All depths are shares of the number of blocks.
    """

    accuracy: tuple[float, ...]
    n: int

    @property
    def error(self) -> tuple[float, ...]:
        return tuple((a * (1 - a) / self.n) ** 0.5 for a in self.accuracy)

    @property
    def jump(self) -> float | None:
        """The first layer that is better than the one before it by a tenth; none where no layer is."""
        return self._depth([i for i, rate in self._rates() if rate >= JUMP])

    @property
    def converged(self) -> float | None:
        """The last layer that differs from the one before it by less than 3%, as the paper writes; often simply the last."""
        flat = [i for i, rate in self._rates() if abs(rate - 1) < FLAT]
        return self._depth(flat[-1:])

    @property
    def settled(self) -> float | None:
        """The first layer from which on every layer differs by less than 3% from the one before it."""
        rates = dict(self._rates())
        return self._depth([i for i in rates if all(abs(rates[j] - 1) < FLAT for j in rates if j >= i)])

    @property
    def peak(self) -> float:
        """The first layer within one percentage point of the best."""
        best = max(self.accuracy)
        return next(i for i, a in enumerate(self.accuracy) if a >= best - PEAK) / (len(self.accuracy) - 1)

    def _rates(self) -> list[tuple[int, float]]:
        return [(i, b / max(a, 1e-9)) for i, (a, b) in enumerate(zip(self.accuracy, self.accuracy[1:], strict=False), 1)]

    def _depth(self, layers: Sequence[int]) -> float | None:
        return layers[0] / (len(self.accuracy) - 1) if layers else None


@method("concept-depth", family="explain", title="Concept depth: at which layers knowledge is acquired",
        paper="arXiv 2404.07066", roster="184")
def concept_depth(net: Network, data: Any, answers: Mapping[str, np.ndarray], each: int = 300, seed: int = 0,
                  batch_size: int = 16) -> dict[str, Depth]:
    """Probe every layer for the answers to some yes-or-no questions, with rows of data kept apart for testing.

    answers: by question, int [rows, tokens] (or [rows, 1] for networks that give one vector a row): 1 yes, 0 no, -1 not
    asked. each: at most so many tokens with either answer to train on; tested on as many as 40% of the rows hold, up to the
    same number, balanced. Gives the accuracy of a logistic probe on the residual stream for each question, layer by layer.

    Differs from the paper: all tokens that are asked about in place of a prompt's last one, the residual stream in place of
    the normalised MLP input, features standardised and a fixed penalty; the embedding is layer 0. An accuracy of 200 tokens has
    a standard error of 0.03, which the paper's thresholds leave out: see `Depth.error`.
    """
    shapes = {name: y.shape for name, y in answers.items()}
    if not answers or len(set(shapes.values())) != 1 or next(iter(shapes.values()))[0] != data.n_rows:
        raise ValueError(f"the answers are one array [rows, tokens] for each question, with the {data.n_rows} rows of the "
                         "data; "
                         f"found {shapes}.")
    random = np.random.default_rng(seed)
    tested = np.zeros(data.n_rows, bool)
    tested[random.permutation(data.n_rows)[: round(TEST * data.n_rows)]] = True
    chosen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, y in answers.items():
        flat, rows = y.ravel(), np.repeat(tested, y.shape[1])
        train, test = (balanced(flat == 1, np.flatnonzero((flat >= 0) & (rows == part)), each, random)
                       for part in (False, True))
        if min(len(train), len(test)) < 40:
            raise ValueError(f"{name!r} has {len(train)} balanced tokens to train on and {len(test)} to test on; a probe needs "
                             "40 of each, so give more data.")
        chosen[name] = train, test
    wanted = np.unique(np.concatenate([part for parts in chosen.values() for part in parts]))
    found: dict[str, list[float]] = {name: [] for name in answers}
    for x in _layers(net, data, wanted, next(iter(shapes.values()))[1], batch_size):
        for name, (train, test) in chosen.items():
            y = answers[name].ravel() == 1
            probe = fit(x[np.searchsorted(wanted, train)], y[train], STRENGTH)
            found[name].append(accuracy(probe(x[np.searchsorted(wanted, test)]), y[test]))
    return {name: Depth(tuple(values), len(chosen[name][1])) for name, values in found.items()}


@torch.no_grad()
def _layers(net: Network, data: Any, wanted: np.ndarray, tokens: int, batch_size: int) -> list[np.ndarray]:
    """The activations [n, d] of some places (row * tokens + token) at each layer, in one pass."""
    sites = ["embed", *(f"blocks.{i}" for i in range(net.n_blocks))]
    parts: list[list[np.ndarray]] = [[] for _ in sites]
    row = 0
    for seen in activations(net, data, sites, batch_size):
        here = wanted[(wanted >= row * tokens) & (wanted < seen.next_row * tokens)] - row * tokens
        for part, site in zip(parts, sites, strict=True):
            part.append(seen.tensors[site].flatten(0, -2)[torch.from_numpy(here)].float().cpu().numpy())
        row = seen.next_row
    return [np.concatenate(part) for part in parts]
