"""Where a score puts its gates, and what stands in for a closed unit.

All scores put their gates at `Place`s, so that they mean the same by a unit and by its reference, which is also what
`Units.edits` does to the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..network import At, Network, Site, zero
from ..network.edit import Reference
from ..network.site import Cut
from .reading import Limits

if TYPE_CHECKING:
    from ..units import Units

# Axes along which a site holds one entry after the other; every other axis but the units' lies inside a unit.
POSITIONS = ("b", "t", "h", "w", "")


@dataclass(frozen=True)
class Place:
    """A site of the table, where its gate is put while measuring, and what stands in for a closed unit.

    axis: which axis counts the units, `u`, `t` (positions), or "" where the site is one unit; size: how many there are.
    """

    name: str
    site: Site
    ref: Reference
    axis: str
    size: int


@dataclass(frozen=True)
class Entries:
    """How the entries of a cut tensor belong to units.

    names: the axes of z; units: for a sparse code the unit of each entry [..., k], none where the axis itself counts.
    """

    names: list[str]
    axis: str
    units: Tensor | None = None

    @property
    def own(self) -> list[int]:
        """The axes inside one unit, such as a head's dimensions."""
        return [i for i, name in enumerate(self.names) if name != self.axis and name not in POSITIONS]

    @property
    def positions(self) -> list[int]:
        """The axes that hold one entry of a unit after the other."""
        return [i for i, name in enumerate(self.names) if name != self.axis and name in POSITIONS]

    def flat(self, x: Tensor) -> Tensor:
        """x with axes of size 1 inside a unit -> [positions, units]."""
        if self.axis == "":
            return x.reshape(-1, 1)
        i = self.names.index(self.axis)
        return x.movedim(i, -1).reshape(-1, x.shape[i])

    def mask(self, keep: Tensor | None, z: Tensor) -> Tensor | None:
        """A batch's mask of kept tokens or rows for each of z's positions; none where it does not speak of them."""
        sizes = [z.shape[i] for i in self.positions]
        if keep is None or list(keep.shape) != sizes[: keep.ndim]:
            return None
        return keep.to(z.device).reshape(*keep.shape, *[1] * (len(sizes) - keep.ndim)).expand(sizes)


def entries(cut: Cut, axis: str, z: Tensor, rest: Any, at: At) -> Entries:
    """How the entries of a tensor that was cut into (z, rest) belong to units."""
    found = [getattr(part, "indices", None) for part in rest] if isinstance(rest, tuple) else []
    indices = next((units for units in found if isinstance(units, Tensor)), None)
    if indices is not None:
        return Entries(["b", *[""] * (z.ndim - 2), "u"], "u", indices)
    return Entries(cut.names(z, at), axis)  # type: ignore[attr-defined]


def skip(z: Tensor, at: At) -> Tensor:
    """The reference that leaves a block out: its own input."""
    x = at.module_input
    if x is None or x.shape != z.shape:
        found = "none" if x is None else tuple(x.shape)
        raise ValueError("a block can be skipped only where its input has the shape of its output, which is "
                         f'{tuple(z.shape)}; found {found}. Use ref="zero", ref="mean" or sites= that keep the shape.')
    return x


REFERENCES: dict[str, Reference] = {"zero": zero, "skip": skip}


def reference_name(units: Units, ref: str | Reference | None) -> str:
    """The name of a reference for the record."""
    return getattr(ref, "__name__", type(ref).__name__) if callable(ref) else ref or units.kind.ref


def references(units: Units, ref: str | Reference | None, data: Any = None,
               limits: Limits = Limits()) -> dict[str, Reference]:  # noqa: B008
    """What stands in for a closed unit, by the name of its site.

    ref: `zero`; `mean` of the site over the data's kept tokens; `skip`, the site's module left out; a function
        `(z, at) -> tensor`; or none for the usual one of the kind of unit.
    """
    ref = ref or units.kind.ref
    if any(site.is_weight for site in units.sites.values()) and ref != "zero":
        raise ValueError(f'a row of a weight is closed by ref="zero"; found {reference_name(units, ref)!r}.')
    if callable(ref):
        return dict.fromkeys(units.sites, ref)
    if ref == "mean":
        if data is None:
            raise ValueError('ref="mean" needs data= to take the mean over.')
        return {name: constant(mean) for name, mean in means(units, data, limits).items()}
    if ref not in REFERENCES:
        raise ValueError(f"a reference is {', '.join([*REFERENCES, 'mean'])} or a function (z, at); found {ref!r}.")
    return dict.fromkeys(units.sites, REFERENCES[ref])


def constant(value: Tensor) -> Reference:
    """The reference that is the same tensor in every pass."""
    def fixed(z: Tensor, at: At) -> Tensor:
        return value
    return fixed


def places(units: Units, ref: str | Reference | None, data: Any, limits: Limits) -> dict[str, Place]:
    """Where the gates of a table's units go, by the table's site names."""
    found, refs = {}, references(units, ref, data, limits)
    for name, site in units.sites.items():
        if site.is_weight:
            site, refs[name] = _output_of(units.net, site, data)
        found[name] = Place(name, site, refs[name], units.kind.axis, units.sizes[name])
    return found


def _output_of(net: Network, weight: Site, data: Any) -> tuple[Site, Reference]:
    """A linear map's output, and its bias as the reference: what a closed row of its weight gives, for each token."""
    site, module = net.site(f"{weight.path}:out"), net.module.get_submodule(weight.path)
    for batch in data.batches(1, stop=1):  # some networks hand all tokens of a batch to a map as if they were rows
        x = net.record(batch, site)[site.name]
        site = replace(site, flat=site.flat or x.ndim == 2 and len(x) != 1)
    bias = getattr(module, "bias", None)
    if bias is None:
        return site, zero
    behind = len(site.cut.axes) - 1 - site.cut.axes.index("u")  # type: ignore[attr-defined]
    return site, constant(bias.detach().reshape(-1, *[1] * behind))


@torch.no_grad()
def means(units: Units, data: Any, limits: Limits) -> dict[str, Tensor]:
    """The mean of each site over the kept tokens of the data, in a shape that broadcasts to the cut site."""
    totals: dict[str, Tensor] = {}
    counts: dict[str, float] = dict.fromkeys(units.sites, 0.0)
    keep: Tensor | None = None

    def adder(name: str, site: Site) -> Callable[[Tensor, At], None]:
        def add(x: Tensor, at: At) -> None:
            z, rest = site.cut.split(x, at)
            form = entries(site.cut, "u", z, rest, at)
            if form.units is not None:
                raise ValueError("the mean of a feature cannot stand in for it, because a feature that is off has no "
                                 'entry in a sparse code; use ref="zero".')
            mask, shape = form.mask(keep, z), [n if i in form.positions else 1 for i, n in enumerate(z.shape)]
            if mask is not None:
                z = z * mask.reshape(shape)
            totals[name] = totals.get(name, 0) + z.sum(form.positions, keepdim=True, dtype=torch.float64)
            counts[name] += math.prod(shape) if mask is None else int(mask.sum())
        return add

    with units.net.watched({site: adder(name, site) for name, site in units.sites.items()}):
        for batch in limits.batches(data):
            keep = batch.keep
            units.net.forward(batch)
    missing = [name for name in units.sites if name not in totals]
    if missing:
        raise ValueError(f"the network's pass did not reach {', '.join(missing)}.")
    return {name: (total / max(counts[name], 1)).float() for name, total in totals.items()}
