"""Activation patching: the measured effect of one activation of another run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..catalogue import method
from ..network import At, Edit, Network, Site
from .effects import Effects, checked, cut, kept_axes
from .task import Inputs, Task, ends


@method("activation-patching", family="circuit", title="Measured effect of an activation from the other prompt",
        paper="Meng et al. 2022, arXiv:2202.05262, section 2.1; Zhang and Nanda 2023, arXiv:2309.16042")
@torch.no_grad()
def activation_patching(net: Network, task: Task, sites: str | Site | Iterable[str | Site] = "blocks.*.attn.heads",
                        over: str = "u", direction: str = "denoising", batch_size: int = 16, at_once: int | None = None,
                        progress: bool = False) -> Effects:
    """Run one prompt of each pair with one activation from the other prompt, for every place, and measure the change.

    sites: where. over: what is patched at a time: `u` a unit at all positions, `t` the whole site at a position, `t u` a unit
    at a position, "" the whole site. direction: `denoising` puts clean activations into corrupted runs, `noising`
    corrupted ones into clean runs. at_once: how many patches share a pass, each in its own copy of the batch's rows; left
    out, as many as fill 64 rows.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at least one place is patched at a time; found at_once={at_once}.")
    places = checked(net, sites, over, direction)
    clean, corrupted = ends(net, task, batch_size)
    before, sign = (corrupted, 1.0) if direction == "denoising" else (clean, -1.0)
    parts: dict[str, list[np.ndarray]] = {site.name: [] for site in places}
    bar = tqdm(total=len(task) * len(places), desc="patch", unit="row", leave=False, disable=None if progress else True)
    done = 0
    for pair in task.batches(batch_size):
        base, other = (pair.corrupted, pair.clean) if direction == "denoising" else (pair.clean, pair.corrupted)
        known, n_rows = net.record(other, places), len(pair.rows)
        own = torch.from_numpy(before[done: done + n_rows])
        for site in places:
            source, names = cut(site, known[site.name])
            sizes = [source.shape[i] for i in kept_axes(site, names, over)[1:]]
            chunk = at_once or max(1, 64 // n_rows)
            found = [_patched(net, task, site, source, over, sizes, base, pair.rows, some)
                     for some in torch.arange(int(np.prod(sizes))).split(chunk)]
            change = sign * (torch.cat(found, 1).cpu() - own[:, None])
            parts[site.name].append(change.reshape(n_rows, *sizes).numpy())
            bar.update(n_rows)
        done += n_rows
    bar.close()
    about = {"method": "activation-patching", "task": task.name, "network": net.name, "direction": direction,
             "unit": task.unit, "rows": len(task), "options": {}}
    return Effects({name: np.concatenate(rows) for name, rows in parts.items()}, clean, corrupted, over, about)


def _patched(net: Network, task: Task, site: Site, source: Tensor, over: str, sizes: Sequence[int], base: Inputs,
             rows: Tensor, places: Tensor) -> Tensor:
    """The measure of each row with each of some places patched: [rows, places], float64."""
    n_rows, n = len(rows), len(places)
    gate = torch.ones(n_rows, n, int(np.prod(sizes)))
    gate[:, torch.arange(n), places] = 0
    values = source.repeat_interleave(n, 0)

    def ref(z: Tensor, at: At) -> Tensor:
        return values

    inputs = {name: x.repeat_interleave(n, 0) for name, x in base.items()}
    with net.edited(Edit(site, ref, gate.reshape(n_rows * n, *sizes), " ".join(["b", *over.split()]))):
        return task.measured(net, inputs, rows.repeat_interleave(n)).double().view(n_rows, n)
