"""First-order estimates of every patch at once: two forward passes and one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..network import At, Edit, Network, Site
from ..network.edit import Touch
from ..network.relevance import relevance
from .effects import Effects, checked, cut, kept_axes
from .task import Inputs, Pair, Task, ends


def midpoints(steps: int) -> list[float]:
    """Where the gradient is taken on the way from one prompt to the other."""
    if steps < 1:
        raise ValueError(f"a way from one prompt to the other has at least one step; found steps={steps}.")
    return [(k + 0.5) / steps for k in range(steps)]


def first_order(net: Network, task: Task, sites: Any, over: str, direction: str, batch_size: int, method: str,
                levels: Sequence[float] = (0.0,), rules: Sequence[str] = (),
                options: dict[str, Any] | None = None) -> Effects:
    """(clean - corrupted) . d measure / d activation at every place, the mean over some runs.

    levels: how far the embeddings of a run have gone from the base prompts (corrupted for denoising, clean for noising)
    to the others; 0 is the base itself. rules: of relevance, in force on the way back. options: what the method says of itself.
    """
    places = checked(net, sites, over, direction)
    clean, corrupted = ends(net, task, batch_size)
    parts: dict[str, list[np.ndarray]] = {site.name: [] for site in places}
    for pair in task.batches(batch_size):
        known = [net.record(inputs, places) for inputs in (pair.clean, pair.corrupted)]
        slopes = mean_slopes(net, task, pair, places, direction, levels, rules)
        for site in places:
            change = known[0][site.name] - known[1][site.name]
            z, names = cut(site, change * slopes[site.name])
            kept = kept_axes(site, names, over)
            summed = z.double().sum([i for i in range(z.ndim) if i not in kept]) if z.ndim > len(kept) else z.double()
            order = [sorted(kept).index(i) for i in kept]
            parts[site.name].append(summed.permute(order).cpu().numpy())
    about = {"method": method, "task": task.name, "network": net.name, "direction": direction, "unit": task.unit,
             "rows": len(task), "options": options or {}}
    return Effects({name: np.concatenate(rows) for name, rows in parts.items()}, clean, corrupted, over, about)


def mean_slopes(net: Network, task: Task, pair: Pair, places: Sequence[Site], direction: str,
                levels: Sequence[float] = (0.0,), rules: Sequence[str] = ()) -> dict[str, Tensor]:
    """d measure / d activation at some sites, the mean over the runs of `levels`, by site name."""
    base, other = (pair.corrupted, pair.clean) if direction == "denoising" else (pair.clean, pair.corrupted)
    goal = net.record(other, "embed")["embed"] if any(levels) else None
    total: dict[str, Tensor] = {}
    for level in levels:
        edits = [Edit("embed", lambda z, at: goal, 1 - level)] if goal is not None else []
        for name, slope in slopes_of(net, task, base, pair.rows, places, rules, edits).items():
            total[name] = total.get(name, 0) + slope / len(levels)
    return total


def slopes_of(net: Network, task: Task, inputs: Inputs, rows: Tensor, places: Sequence[Site], rules: Sequence[str] = (),
              edits: Sequence[Edit] = ()) -> dict[str, Tensor]:
    """d measure / d activation at some sites in one run, in the shape of each site's tensor."""
    leaves: dict[str, Tensor] = {}

    def opened(name: str) -> Touch:
        def touch(x: Tensor, at: At) -> Tensor:
            leaves[name] = torch.zeros_like(x).requires_grad_()
            return x + leaves[name]
        return touch

    with torch.enable_grad(), ExitStack() as stack:
        if rules:
            stack.enter_context(relevance(net, rules))
        stack.enter_context(net.edited(edits))
        stack.enter_context(net.watched({site: opened(site.name) for site in places}))
        measured = task.measured(net, inputs, rows)
        missing = [site.name for site in places if site.name not in leaves]
        if missing:
            raise ValueError(f"the network's pass did not reach {', '.join(missing)}.")
        if not measured.requires_grad:
            raise ValueError(f"the measure of {task.name} has no gradient; give one that has, or patch activations one by one.")
        found = torch.autograd.grad(measured.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
