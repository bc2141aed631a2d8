"""Information-flow routes: how much of what each part reads every earlier part wrote."""

from __future__ import annotations

import torch
from torch import Tensor

from ..catalogue import method
from ..network import Network
from .edge_scores import EdgeScores, facts
from .graph import graph, written
from .task import Task


@method("information-flow", family="circuit", title="Information-flow routes",
        paper="Ferrando and Voita 2024, arXiv:2403.00824, section 2.1, as in arXiv:2504.13151")
@torch.no_grad()
def information_flow(net: Network, task: Task, batch_size: int = 16) -> EdgeScores:
    """The share of each sender in what a receiver reads on the clean prompts, from one pass, without a measure or corruption.

    A sender z is worth how near it is to the sum y of all before the receiver: max(0, |y| - |y - z|) in the 1-norm, over the
    sum of that for all senders, so that a receiver's edges sum to 1; the mean over prompts and positions. It knows nothing
    of the behaviour: a baseline for the scores that do. Differs: the paper follows each attention edge from token to token;
    here, as in the benchmark, a head is one sender.
    """
    parts = graph(net)
    total = torch.zeros(parts.edges.shape, dtype=torch.float64)
    for pair in task.batches(batch_size):
        own = written(parts, pair.clean)
        found = {before: shares(own[:before]) for before in {reader.before for reader in parts.readers}}
        for reader in parts.readers:
            total[reader.rows.start: reader.rows.stop, : reader.before] += len(pair.rows) * found[reader.before].double().cpu()
    return EdgeScores(parts, total / len(task), facts("information-flow", net, task))


def shares(z: Tensor) -> Tensor:
    """How near each of some vectors [senders, ..., n, d] is to their sum, as shares, averaged over all but the senders."""
    y = z.sum(0)
    near = (y.abs().sum(-1) - (z - y).abs().sum(-1)).clamp(min=0)
    return (near / near.sum(0).clamp(min=1e-12)).flatten(1).mean(1)
