"""Edits that put something in the place of the sites that a dictionary writes, made from the sites that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..network import At, Edit, Network, Site, View

Take = Callable[[int, Tensor], Any]
Give = Callable[[int, list[Any], Tensor], Any]


def through(net: Network, dictionary: Any, take: Take, give: Give) -> list[Edit]:
    """Edits at the sites that a dictionary reads, which keep them, and at those that it writes, which replace them.

    take: the number of a site that is read and what is there -> what to keep of it. give: the number of a site that is written,
    what was kept of those read so far in this pass, and what is there [..., d] -> what to put there. Only tokens are changed
    that the dictionary speaks for: by what has been read up to there and by what is replaced.
    """
    kept: list[Any] = []
    read: list[Tensor] = []

    def keeper(i: int) -> Callable[[Tensor, At], Tensor]:
        def keep(x: Tensor, at: At) -> Tensor:
            del kept[i:], read[i:]       # of the pass before this one
            kept.append(take(i, x))
            read.append(x)
            return x
        return keep

    def writer(j: int, name: str) -> Callable[[Tensor, At], Tensor]:
        def write(y: Tensor, at: At) -> Tensor:
            if not read:
                raise ValueError(f"{name} is computed before {dictionary.reads[0]} is, so it cannot be written from there.")
            speaks = dictionary.speaks_for([x.reshape(*y.shape[:-1], -1) for x in read], {j: y}, at.tokens)
            made = torch.as_tensor(give(j, kept, y)).to(y)
            return torch.where(speaks[..., None], made.expand(y.shape) if made.ndim < 2 else made.reshape(y.shape), y)
        return write

    return [*(Edit(raw(net.site(name)), keeper(i)) for i, name in enumerate(dictionary.reads)),
            *(Edit(raw(net.site(name)), writer(j, name)) for j, name in enumerate(dictionary.writes))]


def replaced(dictionary: Any, site: Site, value: Tensor | float) -> Edit:
    """The edit that puts a number or a vector [d] in the place of the activations that a dictionary of one site speaks for."""
    def ref(x: Tensor, at: At) -> Tensor:
        return torch.where(dictionary.keeps(x, at.tokens)[..., None], torch.as_tensor(value, dtype=x.dtype), x)
    return Edit(raw(site), ref)


def raw(site: Site) -> Site:
    """The same tensor, not cut into units."""
    return replace(site, cut=View())
