"""Scores of edges, and the derivative of the measure in every edge's gate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..network import Edit, Network
from ..network.relevance import relevance
from .graph import Graph, Pass, graph, written
from .task import Pair, Task, ends

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """What each edge is worth to a behaviour: by how much of the gap the measure falls when the edge alone is corrupted.

    values: [receivers, senders], float64, 0 where there is no edge; positive edges carry the behaviour.
    """

    graph: Graph
    values: Tensor
    about: dict[str, Any]

    @property
    def of_edges(self) -> Tensor:
        """The scores of the edges that there are, in the order of `graph.names()`."""
        return self.values[self.graph.edges]

    @property
    def of_nodes(self) -> Tensor:
        """The scores of senders, the sums over all that read them: [senders]."""
        return self.values.sum(0)

    def frame(self) -> pd.DataFrame:
        """One row an edge, the largest by size first."""
        import pandas as pd
        pairs = self.graph.edges.nonzero()
        rows = pd.DataFrame({"sender": [self.graph.senders[s] for s in pairs[:, 1].tolist()],
                             "receiver": [self.graph.receivers[r] for r in pairs[:, 0].tolist()],
                             "score": self.of_edges.numpy()})
        return rows.sort_values("score", key=abs, ascending=False, ignore_index=True)

    def __repr__(self) -> str:
        a = self.about
        return (f"{a['method']} of {a['task']}: {self.graph}, {a['rows']} pairs of prompts\n"
                f"{self.frame().head(8).to_string(index=False, float_format='{:.3f}'.format)}")


def facts(method: str, net: Network, task: Task, **options: Any) -> dict[str, Any]:
    """What scores of edges say about themselves."""
    return {"method": method, "task": task.name, "network": net.name, "rows": len(task), "options": options}


def by_derivative(net: Network, task: Task, about: dict[str, Any], levels: Sequence[float] = (0.0,), rules: Sequence[str] = (),
                  batch_size: int = 16) -> EdgeScores:
    """d measure / d gate of every edge at open gates, over the gap; the mean over some runs.

    levels: how far a run's embeddings have gone from the clean prompts to the corrupted ones. rules: of relevance.
    """
    parts = graph(net)
    clean, corrupted = ends(net, task, batch_size)
    total = torch.zeros(parts.edges.shape, dtype=torch.float64)
    for pair in task.batches(batch_size):
        own, other = written(parts, pair.clean), written(parts, pair.corrupted)
        for level in levels:
            total += _derivative(parts, task, pair, own, other, level, rules).double().cpu() / len(levels)
    values = total * parts.edges / len(task) / float(clean.mean() - corrupted.mean())
    return EdgeScores(parts, values, about)


def _derivative(parts: Graph, task: Task, pair: Pair, own: Tensor, other: Tensor, level: float, rules: Sequence[str]) -> Tensor:
    """d measure / d gate, summed over rows, in one run: [receivers, senders]."""
    net = parts.net
    gates = torch.ones(parts.edges.shape, dtype=own.dtype, device=own.device, requires_grad=True)
    goal = other[0]  # the embedding is the first sender

    with torch.enable_grad(), ExitStack() as stack:
        if rules:
            stack.enter_context(relevance(net, rules))
        if level:
            stack.enter_context(net.edited(Edit("embed", lambda z, at: goal, 1 - level)))
        stack.enter_context(Pass(parts, gates, other, own).in_force())
        measured = task.measured(net, pair.clean, pair.rows)
        if not measured.requires_grad:
            raise ValueError(f"the measure of {task.name} has no gradient; give one that has, or use edge-patching.")
        return torch.autograd.grad(measured.sum(), gates)[0]
