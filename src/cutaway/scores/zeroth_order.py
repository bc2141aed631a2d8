"""How much the metric changes along random directions of a block's weights, without a gradient."""

from __future__ import annotations

import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import method
from ..kinds import weights_in
from ..metrics import row_loss
from ..network import At, Edit, Site
from .column import Column, facts
from .reading import Limits, Metric, Reader, measured
from .stream import of_blocks

if TYPE_CHECKING:
    from ..units import Units


@method("zeroth_order", family="score", title="Two-point estimate of the gradient's size in a block's weights",
        refuses=of_blocks, paper="Sung et al. 2023, arXiv:2310.02998, eq. 4")
@torch.no_grad()
def zeroth_order(units: Units, data: Any, *, metric: Metric = row_loss, step: float = 1e-3, directions: int = 1,
                 tokens: int | None = None, batch_size: int = 16, seed: int | None = None, progress: bool = False) -> Column:
    """|metric(W + step z) - metric(W - step z)| / (2 step) for Gaussian z, summed over a block's weights W, mean over rows.

    W are the weights of the linear maps and convolutions inside, and each is moved alone, by an edit. The paper takes the size
    of each mini-batch's mean change and draws anew for each. It needs no gradient; its expectation grows with the norm of the
    gradient, so with the size of the weight.
    metric: `(network, batch) -> [b]`, lower is better. directions: how many z are drawn for each weight, by its name, the same
    for all rows. step: small beside the weights, and large enough that the change is not rounding.
    """
    if directions < 1 or step <= 0:
        raise ValueError(f"it takes at least one direction and a step above 0; found directions={directions}, step={step}.")
    limits = Limits(tokens, batch_size, seed)
    weights = {name: weights_in(units.net, [site]) for name, site in units.sites.items()}
    passes = 2 * directions * sum(map(len, weights.values()))
    reader, total, rows = Reader(units, data, limits, progress, passes=passes), np.zeros(len(units.frame)), 0
    for part in reader:
        n = len(part.batch.rows)
        rows += n
        for name, (index, _) in part.members.items():
            for weight in weights[name]:
                for number in range(directions):
                    z = _direction(units.net.module.get_parameter(f"{weight.path}.{weight.io}"), weight, number)
                    ends = [_moved(units, metric, part.batch, weight, way * step * z).double() for way in (1, -1)]
                    change = (ends[0] - ends[1]).abs() / (2 * step * directions)
                    total[index] += float(change.sum())
                    reader.passed(2 * n)
    return Column(total / max(rows, 1), facts("zeroth_order", reader, None, metric, step=step, directions=directions))


def _direction(weight: Tensor, site: Site, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{site.name} {number}".encode()))
    return torch.randn(weight.shape, generator=generator).to(weight)


def _moved(units: Units, metric: Metric, batch: Any, weight: Site, by: Tensor) -> Tensor:
    with units.net.edited(Edit(weight, partial(_plus, by=by))):
        return measured(metric, units.net, batch, f" when the weights at {weight} are moved")


def _plus(w: Tensor, at: At, by: Tensor) -> Tensor:
    return w + by
