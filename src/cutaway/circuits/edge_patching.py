"""Edge patching: the measured effect of one corrupted edge."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..catalogue import method
from ..network import Network
from .edge_scores import EdgeScores, facts
from .graph import Pass, graph, written
from .task import Task, ends


@method("edge-patching", family="circuit", title="Measured effect of corrupting one edge",
        paper="Goldowsky-Dill et al. 2023, arXiv:2304.05969; Conmy et al. 2023, arXiv:2304.14997")
@torch.no_grad()
def edge_patching(net: Network, task: Task, edges: Tensor | None = None, batch_size: int = 16, at_once: int | None = None,
                  progress: bool = False) -> EdgeScores:
    """Close each edge alone on the clean prompts, so that its receiver alone sees what its sender wrote on the corrupted ones.

    edges: bool [receivers, senders], to measure only some; the others score 0. at_once: how many edges share a pass, each in
    its own copy of the batch's rows; left out, as many as fill 64 rows.
    """
    parts = graph(net)
    wanted = parts.edges if edges is None else edges & parts.edges
    clean, corrupted = ends(net, task, batch_size)
    pairs = wanted.nonzero()  # by receiver, so that a pass changes what few receivers read
    total, done = torch.zeros(parts.edges.shape, dtype=torch.float64), 0
    bar = tqdm(total=len(pairs) * len(task), desc="edges", unit="row", leave=False, disable=None if progress else True)
    for pair in task.batches(batch_size):
        n_rows = len(pair.rows)
        other = written(parts, pair.corrupted)
        for chunk in pairs.split(at_once or max(1, 64 // n_rows)):
            gates = torch.ones(n_rows, len(chunk), *parts.edges.shape)
            gates[:, torch.arange(len(chunk)), chunk[:, 0], chunk[:, 1]] = 0
            inputs = pair.repeat(len(chunk))
            with Pass(parts, gates.flatten(0, 1).to(other), other.repeat_interleave(len(chunk), 1)).in_force():
                after = task.measured(net, inputs.clean, inputs.rows).double().cpu().view(n_rows, -1)
            before = torch.from_numpy(clean[done: done + n_rows])[:, None]
            total[chunk[:, 0], chunk[:, 1]] += (before - after).sum(0)
            bar.update(n_rows * len(chunk))
        done += n_rows
    bar.close()
    return EdgeScores(parts, total / len(task) / float(clean.mean() - corrupted.mean()), facts("edge-patching", net, task))

