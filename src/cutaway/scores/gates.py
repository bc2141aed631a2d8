"""One backward pass through gates: the derivative of a metric in the gate of every unit at every token, at all sites.

Every entry of every site has a gate of its own at 1; the gate's gradient comes to the scores during the backward pass,
site by site, and is freed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..metrics import row_loss
from ..network import At, Edit
from ..network.edit import Reference
from ..network.site import Cut
from .column import Column, Shared, Totals, facts
from .places import Place, entries, places, reference_name
from .reading import Limits, Metric, Part, Reader, measured, metric_name

if TYPE_CHECKING:
    from ..units import Units


class Opened:
    """A site's cut, already made, for a gate in the shape of its entries."""

    n = None

    def __init__(self, cut: Cut, z: Tensor, rest: Any):
        self.cut, self.z, self.rest = cut, z, rest

    def split(self, x: Tensor, at: At) -> tuple[Tensor, Any]:
        return self.z, self.rest

    def join(self, z: Tensor, rest: Any) -> Tensor:
        return self.cut.join(z, rest)

    def spread(self, gate: Tensor, over: str, z: Tensor, rest: Any, at: At) -> Tensor:
        return gate


def gradients(units: Units, data: Any, scores: Sequence[Shared], *, metric: Metric = row_loss,
              ref: str | Reference | None = None, tokens: int | None = None, batch_size: int = 16,
              seed: int | None = None, progress: bool = False) -> list[Column]:
    """Scores of -d metric / d gate of each entry, from one backward pass a batch.

    metric: `(network, batch) -> [b]`, lower is better; a row's metric may depend on that row alone.
    ref: what stands in for a closed unit: `zero`, `mean`, `skip`, a function, or none for the usual one of the kind.
    tokens: use the first so many tokens of the data, or, with a seed, as many from rows drawn by it.
    """
    limits = Limits(tokens, batch_size, seed)
    where, totals = places(units, ref, data, limits), Totals(units, scores)
    reader = Reader(units, data, limits, progress)
    for part in reader:
        _backward(units, metric, where, part, totals)
        reader.passed(len(part.batch.rows))
    return [Column(values, facts(score.__name__, reader, reference_name(units, ref), metric))
            for score, values in zip(scores, totals.columns(), strict=True)]


def _backward(units: Units, metric: Metric, where: dict[str, Place], part: Part, totals: Totals) -> None:
    """Add one batch."""
    gates: list[Tensor] = []
    reached: set[str] = set()

    def gated(place: Place) -> Callable[[Tensor, At], Tensor]:
        def touch(x: Tensor, at: At) -> Tensor:
            z, rest = place.site.cut.split(x, at)
            form = entries(place.site.cut, place.axis, z, rest, at)
            shape = [1 if i in form.own else n for i, n in enumerate(z.shape)]
            gate = z.new_ones(()).expand(shape).requires_grad_()  # a leaf that takes no memory

            def take(gate: Tensor) -> None:
                totals.add(part.members[place.name], form, -gate.grad, place.size)  # type: ignore[operator]
                gate.grad = None
            gate.register_post_accumulate_grad_hook(take)
            gates.append(gate)
            reached.add(place.name)
            return Edit(replace(place.site, cut=Opened(place.site.cut, z, rest)), place.ref, gate)(x, at)
        return touch

    touched = {place.site: gated(place) for name, place in where.items() if name in part.members}
    with torch.enable_grad(), units.net.watched(touched):
        values = measured(metric, units.net, part.batch)
        missing = [name for name in part.members if name not in reached]
        if missing:
            raise ValueError(f"the network's pass did not reach {', '.join(missing)}.")
        if not values.requires_grad:
            raise ValueError(f"the metric {metric_name(metric)} has no gradient: it is computed without one, or by "
                             "steps that have none. Give a metric that has, or use the exact score.")
        values.sum().backward(inputs=gates)
    for index, _ in part.members.values():
        totals.n["row"][index] += len(part.batch.rows) if units.kind.axis != "t" else 1
