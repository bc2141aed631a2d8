"""Path patching: what one part does to a behaviour by way of some others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..catalogue import method
from ..network import At, Edit, Network, Site, View
from ..network.edit import Reference
from .effects import Effects
from .graph import Graph, graph
from .task import Pair, Task, ends


@method("path-patching", family="circuit", title="Effect of a part by way of others",
        paper="Wang et al. 2022, arXiv:2211.00593, appendix B; Goldowsky-Dill et al. 2023, arXiv:2304.05969")
@torch.no_grad()
def path_patching(net: Network, task: Task, sender: str, receivers: Sequence[str], freeze_mlps: bool = False,
                  batch_size: int = 16) -> Effects:
    """How far the measure falls on clean prompts when some receivers alone see what a corrupted sender does to them.

    sender, receivers: of `cutaway.circuits.graph(net)`, such as `blocks.0.attn.heads:3` and `["blocks.2.attn.k:1"]`.
    freeze_mlps: the MLPs between them stay as on the clean prompts too, as all heads between them do: what is left is the
    edges from the sender to the receivers.

    Four runs, as in the paper: the sender is recorded on the corrupted prompts, all else on the clean ones; a clean run with
    the sender corrupted and the rest frozen tells what the receivers see; a clean run with that in the receivers is measured.
    """
    parts = graph(net)
    for name, known in ((sender, parts.senders), *((receiver, parts.receivers) for receiver in receivers)):
        if name not in known:
            raise ValueError(f"there is no part {name!r} in this place of a path; there are {known[0]}, ..., {known[-1]}.")
    if not receivers:
        raise ValueError("a path leads to at least one receiver; give some, such as ['logits'].")
    clean, corrupted = ends(net, task, batch_size)
    after = [_measured(parts, task, pair, sender, receivers, freeze_mlps) for pair in task.batches(batch_size)]
    drop = clean - torch.cat(after).numpy()
    about = {"method": "path-patching", "task": task.name, "network": net.name, "direction": "noising", "unit": task.unit,
             "rows": len(task), "options": {"sender": sender, "receivers": list(receivers), "freeze_mlps": freeze_mlps}}
    return Effects({f"{sender} -> {', '.join(receivers)}": drop}, clean, corrupted, "", about)


def _measured(parts: Graph, task: Task, pair: Pair, sender: str, receivers: Sequence[str], freeze_mlps: bool) -> Tensor:
    """The measure of some rows in the last of the four runs."""
    net = parts.net
    site, _, unit = sender.partition(":")
    heads = [f"blocks.{i}.attn.heads" for i in range(net.n_blocks)]
    mlps = [f"blocks.{i}.mlp" for i in range(net.n_blocks)] if freeze_mlps else []
    new = net.record(pair.corrupted, site)[site]
    old = net.record(pair.clean, [*heads, *mlps])
    edits = [_put(net, name, values) for name, values in old.items() if name != site or unit]
    changed = _put(net, site, new, int(unit) if unit else None)
    # The sender's own site is frozen first and then changed; what is frozen before it stays as it is in any case.
    reads = {name: place for name in receivers for place in [_reading(parts, name)]}
    with net.edited(edits), net.edited(changed):
        seen = net.record(pair.clean, [place for place, _ in reads.values()])
    through = [Edit(place, _these(seen[place.name], columns)) for place, columns in reads.values()]
    with net.edited(through):
        return task.measured(net, pair.clean, pair.rows).double().cpu()


def _put(net: Network, name: str, values: Tensor, unit: int | None = None) -> Edit:
    """The edit that puts recorded values in the place of a site, or of one of its units."""
    place = net.site(name)

    def ref(z: Tensor, at: At) -> Tensor:
        return place.cut.split(values, at)[0]
    if unit is None:
        return Edit(place, ref)
    gate = torch.ones(place.n or 1)
    gate[unit] = 0
    return Edit(place, ref, gate, "u")


def _reading(parts: Graph, receiver: str) -> tuple[Site, Tensor | None]:
    """The tensor that a receiver makes of what it reads, and which columns of it are its own."""
    row = parts.receivers.index(receiver)
    reader = next(reader for reader in parts.readers if row in reader.rows)
    io = "out" if reader.kind == "heads" else "in"
    name = f"{reader.path}:{io}" if reader.outputs is None else f"{reader.path}:{io}:{receiver}"
    columns = None if reader.outputs is None else reader.outputs[row - reader.rows.start]
    return Site(name, reader.path, io, View()), columns


def _these(values: Tensor, columns: Tensor | None) -> Reference:
    """The reference that puts some columns of recorded values in place."""
    def ref(z: Tensor, at: At) -> Tensor:
        return values if columns is None else z.index_copy(-1, columns, values[..., columns])
    return ref
