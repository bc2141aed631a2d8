"""How few of a block's weights stand far above their average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..catalogue import method
from ..kinds import weights_in
from .column import Column, facts_without_data
from .running import only

if TYPE_CHECKING:
    from ..units import Units


@method("weight_outliers", family="score", title="Minus the share of weights far above average",
        refuses=only("layers", "rows"), paper="Dumitru et al. 2024, arXiv:2406.17415, the z-score distribution")
@torch.no_grad()
def weight_outliers(units: Units, data: Any = None, *, above: float = 1.0) -> Column:
    """Minus the share of a unit's weights that are more than so many standard deviations above their mean.

    The weights are those of all linear maps inside a block, or of one row; no data is read. The paper counts z-scores above
    1 and calls blocks with fewer of them more important, hence the minus. above: the standard deviations. The share does not
    change with the weights' scale: it sees the shape of their distribution alone, and is 0.159 for a Gaussian.
    """
    values = np.zeros(len(units.frame))
    sites, numbers = units.frame["site"].to_numpy(), units.frame["unit"].to_numpy()
    for name, site in units.sites.items():
        here = sites == name
        maps = weights_in(units.net, [site])
        weights = [getattr(units.net.module.get_submodule(map.path), map.io).detach() for map in maps]
        if site.is_weight:
            w = weights[0].movedim(maps[0].cut.axes.index("u"), 0).flatten(1)  # type: ignore[attr-defined]
        else:
            w = torch.cat([weight.flatten() for weight in weights])[None]
        z = (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)
        if not bool(torch.isfinite(z).all()):
            raise ValueError(f"the weights at {name} are all alike or hold NaN or infinity, so none is above their average.")
        values[here] = -(z > above).double().mean(1).cpu().numpy()[numbers[here] if site.is_weight else [0] * here.sum()]
    return Column(values, facts_without_data("weight_outliers", units, above=above))
