"""The kinds of unit, and where a network keeps them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .network import At, Enough, Network, Site


@dataclass(frozen=True)
class Kind:
    """A kind of unit: at which sites, along which axis (`u`, `t` positions, "" the whole site), closed to what.

    lacks: what to do where a network has no such sites.
    """

    name: str
    sites: str
    axis: str
    ref: str
    lacks: str


_PATHS = "give sites= by module path, such as 'fc1:out'"
KINDS = {kind.name: kind for kind in (
    Kind("layers", "blocks.*", "", "skip", _PATHS),
    Kind("sublayers", "blocks.*.attn blocks.*.mlp", "", "zero", _PATHS),
    Kind("heads", "blocks.*.attn.heads", "u", "zero", _PATHS),
    Kind("neurons", "blocks.*.mlp.neurons", "u", "zero", _PATHS),
    Kind("experts", "blocks.*.mlp.experts", "u", "zero", "only mixtures of experts have them"),
    Kind("channels", "blocks.*", "u", "zero", _PATHS),
    Kind("rows", "blocks.*", "u", "zero", "give sites= by module path, such as 'fc1:weight'"),
    Kind("features", "", "u", "zero", "give dictionary="),
    Kind("tokens", "embed", "t", "mean", "give sites= by the path of the module that embeds, such as 'embedding:out'"),
)}


def kind_of(name: str) -> Kind:
    """The kind of a name; an unknown one names the nearest."""
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.3)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise ValueError(f"there is no kind of unit {name!r}{hint}. The kinds are {', '.join(KINDS)}.")
    return KINDS[name]


def sites_of(net: Network, kind: Kind, names: str | Site | Iterable[str | Site] | None = None,
             dictionary: Any = None) -> list[Site]:
    """The sites of a table, or one sentence about why the network has none."""
    if kind.name == "features":
        if dictionary is None:
            raise ValueError("features are those of a dictionary; give dictionary=, one or several.")
        found = [one.features(net) for one in (dictionary if isinstance(dictionary, Sequence) else [dictionary])]
        if len({site.name for site in found}) < len(found):
            raise ValueError("two of the dictionaries belong to one site; make a table for each of them.")
        return found
    wanted = kind.sites.split() if names is None else [names] if isinstance(names, str | Site) else list(names)
    try:
        found = weights_in(net, wanted) if kind.name == "rows" else net.sites(wanted)
    except ValueError as error:
        if names is not None:
            raise
        raise ValueError(f"{net.name} has no {kind.name} that Cutaway knows by name; {kind.lacks}.") from error
    wrong = [site.name for site in found if site.is_weight != (kind.name == "rows")]
    if wrong:
        raise ValueError(f"{wrong[0]} is a weight, whose units are its rows; ask for the kind 'rows' there.")
    return found


def weights_in(net: Network, names: Iterable[str | Site]) -> list[Site]:
    """The weights of the maps at or inside the modules of some sites; a site that is a weight stands for itself."""
    maps = [path for path, module in net.module.named_modules() if is_map(module)]
    found: dict[str, Site] = {}
    for site in net.sites(names):
        paths = [path for path in maps if path == site.path or (not site.is_weight and path.startswith(f"{site.path}."))]
        if not paths or (site.is_weight and site.io != "weight"):
            raise ValueError(f"there is no weight of a linear map or a convolution at {site}; its rows are not units.")
        found.update((path, net.site(f"{path}:weight")) for path in paths)
    return list(found.values())


def is_map(module: nn.Module) -> bool:
    """Whether a module multiplies by its weight and adds its bias, so that each row of the weight is one output."""
    return isinstance(module, nn.Linear | nn.Conv2d) or type(module).__name__ == "Conv1D"


def size_of(net: Network, kind: Kind, site: Site, data: Any = None) -> int:
    """How many units a site has; where it does not say so, one row of data tells."""
    if kind.axis == "":
        return 1
    if kind.axis == "u" and site.n is not None:
        return site.n
    if data is None:
        raise ValueError(f"how many units there are at {site} is known only in a pass; give data=.")
    sizes: list[int] = []

    def look(x: Tensor, at: At) -> None:
        z, _ = site.cut.split(x, at)
        sizes.append(z.shape[site.cut.names(z, at).index(kind.axis)])  # type: ignore[attr-defined]
        raise Enough

    with torch.no_grad(), net.watched({site: look}):
        net.run_until_enough(data.rows([0]))
    if not sizes:
        raise ValueError(f"the network's pass did not reach {site}.")
    return sizes[0]


def block_of(net: Network, site: Site) -> int | None:
    """The number of the block that a site lies in, by its name or by its module's path."""
    if site.block is not None:
        return site.block
    blocks = {block.path: block.block for block in net.named.values() if block.name == f"blocks.{block.block}"}
    return next((number for path, number in blocks.items() if site.path.startswith(f"{path}.")), None)
