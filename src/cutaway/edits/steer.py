"""Steering: add a direction to the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..catalogue import method
from ..network import At, Edit, Network, Site
from ..observe import activations


@method("steer", family="edit", title="Activation addition", paper="arXiv 2308.10248; 2310.01405")
def steer(direction: Any, strength: float, site: str | Site | None = None) -> Edit:
    """Add `strength` times a unit direction to the activations at a site, at every token but special ones.

    direction: a feature of a dictionary (at its own site), or a vector [d] with a `site`. strength: in the units of the
    activations, so that for a feature it is the activation that is added; a feature's `max` is a natural scale.
    """
    dictionary = getattr(direction, "dictionary", None)
    if dictionary is not None:
        # A transcoder's rows belong to where it writes.
        site, vector = site or getattr(dictionary, "target", "") or dictionary.site, direction.direction
    else:
        vector = torch.as_tensor(direction)
    if site is None:
        raise ValueError("a direction needs a site to be added at; give site=, such as 'blocks.3'.")
    if vector.ndim != 1 or not float(vector.norm()) > 0:
        raise ValueError(f"a direction is a vector that is not zero; found the shape {tuple(vector.shape)}.")
    unit = (vector / vector.norm()).detach()

    def ref(x: Tensor, at: At) -> Tensor:
        if x.shape[-1] != len(unit):
            raise ValueError(f"the direction has {len(unit)} entries, but {site} has {x.shape[-1]}.")
        moved = x + strength * unit.to(x)
        return moved if dictionary is None else torch.where(
            dictionary.keeps_written(x, at.tokens)[..., None], moved, x)
    return Edit(site, ref)


def difference(net: Network, site: str | Site, toward: Any, away: Any) -> Tensor:
    """The mean activation at a site on one data minus that on another: [d], a direction to steer along.

    The difference of means of arXiv 2310.01405 and 2312.06681; means are over the tokens that count.
    """
    return _mean(net, site, toward) - _mean(net, site, away)


def _mean(net: Network, site: str | Site, data: Any) -> Tensor:
    place = net.site(site)
    total: Tensor | float = 0.0
    n = 0
    for seen in activations(net, data, [place]):
        x = seen.kept(place.name).double()
        total, n = total + x.sum(0), n + len(x)
    if n == 0:
        raise ValueError(f"{data.name} holds no token that counts, so it has no mean at {place}.")
    return (torch.as_tensor(total) / n).float()
