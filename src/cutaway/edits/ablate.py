"""Ablation: put zero, the mean, or another prompt's values in the place of some units."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..catalogue import method
from ..data import as_data
from ..network import At, Edit, Network, Site, View, zero
from ..observe import activations


def _gate(site: Site, units: int | Iterable[int] | None) -> tuple[Any, str]:
    """A gate that is closed for some units, or for the whole site."""
    if units is None:
        return 0.0, ""
    chosen = [units] if isinstance(units, int) else list(units)
    if site.n is None:
        raise ValueError(f"{site} has no known number of units; ablate it as a whole.")
    wrong = [unit for unit in chosen if not 0 <= unit < site.n]
    if wrong:
        raise ValueError(f"{site} has the units 0 to {site.n - 1}; found {wrong[0]}.")
    gate = torch.ones(site.n)
    gate[chosen] = 0
    return gate, "u"


@method("zero-ablate", family="edit", title="Zero ablation")
def zero_ablate(net: Network, site: str | Site, units: int | Iterable[int] | None = None) -> Edit:
    """Put zero in the place of some units of a site, or of all of it."""
    place = net.site(site)
    gate, over = _gate(place, units)
    return Edit(place, zero, gate, over)


@dataclass(frozen=True)
class MeanOf:
    """The reference of mean ablation: value is the mean of the site's units, [units, ...] or [d]."""

    value: Tensor

    def __call__(self, z: Tensor, at: At) -> Tensor:
        return self.value.to(z)


@method("mean-ablate", family="edit", title="Mean ablation")
def mean_ablate(net: Network, site: str | Site, data: Any, units: int | Iterable[int] | None = None,
                tokens: int = 20_000) -> Edit:
    """Put the mean over data in the place of some units of a site, or of all of it.

    The mean is over the tokens that count in the first `tokens` tokens of data.
    """
    place = net.site(site)
    gate, over = _gate(place, units)
    total: Tensor | float = 0.0
    n = 0
    at, cut = At(), cast("View", place.cut)
    for seen in activations(net, as_data(data).take(tokens), [place]):
        x = seen.tensors[place.name]
        keep = seen.batch.keep
        z, _ = place.cut.split(x, at)
        if keep is not None and keep.shape == z.shape[:2]:
            z = z[keep]
            total, n = total + z.double().sum(0), n + len(z)
        else:
            positions = [i for i, name in enumerate(cut.names(z)) if name in ("b", "t", "h", "w", "")]
            total, n = total + z.double().sum(positions, keepdim=True), n + math.prod(z.shape[i] for i in positions)
    if n == 0:
        raise ValueError(f"{data.name} holds no token that counts, so {place} has no mean.")
    return Edit(place, MeanOf((torch.as_tensor(total) / n).float()), gate, over)


@method("resample-ablate", family="edit", title="Resample ablation (activation patching)", paper="arXiv 2202.05262")
def resample_ablate(net: Network, site: str | Site, other: Any, units: int | Iterable[int] | None = None) -> Edit:
    """Put the values from another batch of the same shape in the place of some units of a site, or of all of it."""
    place = net.site(site)
    gate, over = _gate(place, units)
    source = net.record(other, place)[place.name]

    def ref(z: Tensor, at: At) -> Tensor:
        values, _ = place.cut.split(source, at)
        if values.shape[1:] != z.shape[1:] or values.shape[0] not in (1, z.shape[0]):
            raise ValueError(f"the other batch gives {place} the shape {tuple(values.shape)}, but this pass has "
                             f"{tuple(z.shape)}; use texts of equal length.")
        return values.to(z)
    return Edit(place, ref, gate, over)
