"""The mean gradient along a site's own way from open to closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from ..metrics import row_loss
from ..network import Edit
from ..network.edit import Reference
from .column import Column, facts
from .places import Place, places, reference_name
from .reading import Limits, Metric, Reader, measured
from .sweep import without_gradient

if TYPE_CHECKING:
    from ..units import Units


@method("path", family="score", title="Mean gradient while the unit's site is closed step by step",
        paper="Sundararajan et al. 2017, arXiv:1703.01365, eq. 3; Dhamdhere et al. 2018, arXiv:1805.12233")
def path(units: Units, data: Any, *, metric: Metric = row_loss, ref: str | Reference | None = None, steps: int = 8,
         tokens: int | None = None, batch_size: int = 16, seed: int | None = None, progress: bool = False) -> Column:
    """-d metric / d gate of each unit, averaged while all gates of its site go from 1 to 0 together, mean over rows.

    The scores of a site's units sum to the exact effect of closing the whole site, as the steps grow (midpoint rule).
    Each site goes its own way and the others stay open; for layers, which are one unit each, that is the exact effect
    of skipping the layer.
    metric: `(network, batch) -> [b]`, lower is better; a row's metric may depend on that row alone.
    ref: what stands in for a closed unit: `zero`, `mean`, `skip`, a function, or none for the usual one of the kind.
    """
    if steps < 1:
        raise ValueError(f"a path has at least one step; found steps={steps}.")
    limits = Limits(tokens, batch_size, seed)
    where, reader = places(units, ref, data, limits), Reader(units, data, limits, progress, passes=steps * len(units.sites))
    total, rows = np.zeros(len(units.frame)), np.zeros(len(units.frame))
    for part in reader:
        for name, (index, numbers) in part.members.items():
            way = [_minus_gradient(units, metric, where[name], part.batch, (k + 0.5) / steps) for k in range(steps)]
            total[index] += torch.stack(way).double().mean(0).cpu().numpy()[numbers]
            rows[index] += len(part.batch.rows)
            reader.passed(steps * len(part.batch.rows))
    return Column(total / np.maximum(rows, 1), facts("path", reader, reference_name(units, ref), metric, steps=steps))


def _minus_gradient(units: Units, metric: Metric, place: Place, batch: Any, level: float) -> Tensor:
    """-d metric / d gate of each unit of one place [size], summed over the rows, with all its gates at one level."""
    double = next((p.dtype for p in units.net.module.parameters()), None) == torch.float64
    gate = torch.full([place.size] if place.axis else [], level, dtype=torch.float64 if double else torch.float32,
                      device=units.net.device, requires_grad=True)
    with torch.enable_grad(), units.net.edited(Edit(place.site, place.ref, gate, place.axis)):
        values = measured(metric, units.net, batch, f" on the way of {place.name} from open to closed")
        if not values.requires_grad:
            raise ValueError(without_gradient(metric))
        return -torch.autograd.grad(values.sum(), gate, allow_unused=True, materialize_grads=True)[0].reshape(-1)
