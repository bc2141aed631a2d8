"""How much of a behaviour a circuit keeps: faithfulness, its curve over sizes, completeness and minimality.

f(C) = (m(C) - m(empty)) / (m(N) - m(empty)), where m(C) is the mean measure with every edge outside C corrupted, N the whole
network and "empty" the corrupted prompts: the definitions of the Mechanistic Interpretability Benchmark (arXiv 2504.13151).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..metrics import Figure, bootstrap
from .graph import Graph, Pass, written
from .task import Pair, Task, ends

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Level:
    """What a circuit is a set of: edges, or nodes with all edges that leave them.

    ids: [receivers, senders], which part each edge belongs to; -1 for edges that are always kept or are none.
    """

    name: str
    parts: list[str]
    ids: Tensor
    edges: Tensor

    def edges_of(self, kept: Tensor) -> Tensor:
        """The edges that are kept with some parts: bool [parts] -> bool [receivers, senders]."""
        return torch.cat([kept, kept.new_ones(1)])[self.ids] & self.edges

    def sums(self, values: Tensor) -> Tensor:
        """Scores of edges [receivers, senders] -> scores of parts [parts]."""
        own = self.ids >= 0
        return torch.zeros(len(self.parts), dtype=values.dtype).index_add(0, self.ids[own], values[own])


def _edges(parts: Graph) -> Level:
    ids = torch.full(parts.edges.shape, -1).masked_scatter(parts.edges, torch.arange(parts.n_edges))
    return Level("edges", parts.names(), ids, parts.edges)


def _nodes(parts: Graph) -> Level:
    columns = torch.arange(len(parts.senders)) - 1  # the embedding is always kept
    return Level("nodes", parts.senders[1:], torch.where(parts.edges, columns, -1), parts.edges)


LEVELS: dict[str, Callable[[Graph], Level]] = {"edges": _edges, "nodes": _nodes}


def level_of(parts: Graph, name: str) -> Level:
    """The level of a name."""
    if name not in LEVELS:
        raise ValueError(f"a circuit is a set of {' or '.join(LEVELS)}; found {name!r}.")
    return LEVELS[name](parts)


class Kept:
    """The measure of a task with only some edges kept. What the senders write on corrupted prompts is recorded once."""

    def __init__(self, parts: Graph, task: Task, batch_size: int = 32):
        self.graph, self.task = parts, task
        self.clean, self.corrupted = ends(parts.net, task, batch_size)
        self.batches: list[tuple[Pair, Tensor]] = [
            (pair, written(parts, pair.corrupted)) for pair in task.batches(batch_size)]

    @torch.no_grad()
    def values(self, kept: Tensor) -> np.ndarray:
        """The measure of each row, from kept edges bool [receivers, senders]: [rows]."""
        found = []
        # Of a part that nobody reads, every reader is given what it wrote on the corrupted prompt: what it reads is all one.
        gates = kept | ~self.graph.useful(kept)[:, None]
        for pair, other in self.batches:
            with Pass(self.graph, gates.to(other), other).in_force():
                found.append(self.task.measured(self.graph.net, pair.clean, pair.rows).double().cpu())
        return torch.cat(found).numpy()

    def share(self, values: np.ndarray) -> float:
        """Faithfulness from the measure of each row."""
        return float((values - self.corrupted).mean() / (self.clean - self.corrupted).mean())

    def faithfulness(self, kept: Tensor) -> float:
        return self.share(self.values(kept))

    def figure(self, name: str, values: np.ndarray, baseline: str) -> Figure:
        """Faithfulness with its interval over rows of the task."""
        parts = np.stack([values - self.corrupted, self.clean - self.corrupted], 1)
        low, high = bootstrap(parts, lambda sums: sums[..., 0] / sums[..., 1])
        return Figure(name, self.share(values), low, high, len(values), "pairs of prompts", baseline=baseline,
                      data=self.task.name)


@dataclass(frozen=True)
class Curve:
    """Faithfulness of circuits of growing size.

    shares: of parts kept; sizes: how many, before dead ends go; values: the measure of each row [shares, rows].
    """

    name: str
    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    values: np.ndarray
    clean: np.ndarray
    corrupted: np.ndarray
    task: str

    @property
    def faithfulness(self) -> np.ndarray:
        """[shares]."""
        return (self.values - self.corrupted).mean(1) / (self.clean - self.corrupted).mean()

    def area(self, kind: str) -> Figure:
        """The area under the curve over the share of parts, by trapezoids, with its interval over rows.

        kind: `cpr` of f, higher is better, for parts chosen by signed scores; `cmd` of |1 - f|, 0 is best, for parts chosen
        by the size of scores; `log cmd` the same over log10 of the share, which the largest circuits do not rule.
        """
        sums = np.concatenate([self.values - self.corrupted, (self.clean - self.corrupted)[None]]).T
        low, high = bootstrap(sums, partial(_area, kind, self.shares))
        return Figure(kind, float(_area(kind, self.shares, sums.sum(0))), low, high, len(self.clean), "pairs of prompts",
                      data=self.task)


AREAS: dict[str, tuple[Callable, Callable]] = {
    "cpr": (lambda f: f, np.asarray), "cmd": (lambda f: np.abs(1 - f), np.asarray),
    "log cmd": (lambda f: np.abs(1 - f), np.log10)}


def _area(kind: str, shares: Sequence[float], sums: np.ndarray) -> Any:
    height, axis = AREAS[kind]
    x, y = axis(np.array(shares)), height(sums[..., :-1] / sums[..., -1:])
    total = ((y[..., 1:] + y[..., :-1]) / 2 * np.diff(x)).sum(-1)
    return total / (x[-1] - x[0]) if axis is np.log10 else total


def curve(kept: Kept, level: Level, order: Tensor, name: str, shares: Sequence[float] = SHARES) -> Curve:
    """Keep the first so many parts of an order, and measure.

    order: the parts from the one that is kept first to the last, such as by signed scores for `cpr`.
    """
    sizes = tuple(int(share * len(level.parts)) for share in shares)
    values = []
    for size in sizes:
        chosen = torch.zeros(len(level.parts), dtype=torch.bool)
        chosen[order[:size]] = True
        edges = kept.graph.without_dead_ends(level.edges_of(chosen))
        values.append(kept.values(edges) if size < len(level.parts) else kept.clean)
    return Curve(name, tuple(shares), sizes, np.stack(values), kept.clean, kept.corrupted, kept.task.name)


@dataclass(frozen=True)
class Benchmark:
    """CPR and CMD of an order of parts by scores, beside those of random orders.

    curves: by name: `signed`, `size`, and `random`, which has the rows' mean over several orders.
    """

    cpr: Figure
    cmd: Figure
    log_cmd: Figure
    random: dict[str, list[float]]
    curves: dict[str, Curve]


def benchmark(task: Task, scores: Any, level: str = "edges", shares: Sequence[float] = SHARES, n_random: int = 5,
              seed: int = 0, batch_size: int = 32) -> Benchmark:
    """Faithfulness curves of the circuits that scores of edges choose, by the definitions of arXiv 2504.13151.

    task: prompts that the scores were not made on. scores: of edges (EdgeScores). n_random: random orders beside it.
    """
    parts = scores.graph
    kept, chosen = Kept(parts, task, batch_size), level_of(parts, level)
    values = chosen.sums(scores.values)
    signed = curve(kept, chosen, values.argsort(descending=True, stable=True), "signed", shares)
    size = curve(kept, chosen, values.abs().argsort(descending=True, stable=True), "size", shares)
    generator = torch.Generator().manual_seed(seed)
    others = [curve(kept, chosen, torch.randperm(len(values), generator=generator), "random", shares) for _ in range(n_random)]
    areas = {kind: [other.area(kind).value for other in others] for kind in AREAS}
    mean = replace(size, name="random", values=np.mean([other.values for other in others], 0))
    return Benchmark(signed.area("cpr"), size.area("cmd"), size.area("log cmd"), areas,
                     {"signed": signed, "size": size, "random": mean})
