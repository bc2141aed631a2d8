"""What gates show in one pass: what each would take away, and the derivative of a metric in each, at every token and site.

Every entry of every site has a gate of its own at 1; the gate's gradient comes to the scores during the backward pass,
site by site, and is freed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..network import At, Edit, Site
from ..network.edit import Reference, Touch
from ..network.site import Cut
from .places import Entries, Place, entries, places, reference_name
from .reading import Limits, Part
from .sweep import Shared

if TYPE_CHECKING:
    from ..units import Units

AT_ONCE = 2**24  # entries that a score is handed at a time, so that memory does not grow with the width of a layer


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


class Total:
    """The running column of one score; it is added up site by site, and no batch is kept.

    The score's `combine` says how a unit's numbers come together, `sum` or `amax`, and its `per` what a sum is divided by,
    `row` or `position`; its `finish` makes the column of several sums, where it has that.
    """

    def __init__(self, score: Shared, units: int):
        self.each, self.how = score.each, score.how
        self.values, self.n = np.zeros((1, units)), np.zeros(units)

    def add(self, members: tuple[np.ndarray, np.ndarray], flat: Tensor, index: Tensor | None, size: int) -> None:
        """flat: entries [positions, units]; index: for a sparse code the unit of each, [positions, k]."""
        rows, numbers = members
        new = self._gathered(flat, index, size)[:, numbers]
        if len(new) > len(self.values):
            self.values = np.zeros((len(new), self.values.shape[1]))
        if self.how.get("combine") == "amax":
            self.values[:, rows] = np.maximum(self.values[:, rows], new)
        else:
            self.values[:, rows] += new
        if self.how["per"] == "position":
            self.n[rows] += len(flat)

    def _gathered(self, flat: Tensor, index: Tensor | None, size: int) -> np.ndarray:
        """The numbers of a site's units [sums, size]."""
        combine, total = self.how.get("combine", "sum"), None
        for start in range(0, len(flat), max(1, AT_ONCE // max(1, flat.shape[-1]))):
            stop = start + max(1, AT_ONCE // max(1, flat.shape[-1]))
            made = self.each(flat[start:stop])
            made = made if made.ndim == 3 else made[None]
            if index is not None:
                where = index[start:stop].flatten().expand(len(made), -1)
                found = made.new_zeros(len(made), size).scatter_reduce(1, where, made.flatten(1), combine)
            else:
                found = made.sum(1, dtype=torch.float64) if combine == "sum" else made.amax(1)
            total = found if total is None else total + found if combine == "sum" else torch.maximum(total, found)
        return np.zeros((1, size)) if total is None else total.double().cpu().numpy()

    def column(self) -> np.ndarray:
        means = self.values if self.how.get("combine") == "amax" else self.values / np.maximum(self.n, 1)
        return self.how["finish"](means) if "finish" in self.how else means[0]


class Gates:
    """A gate at 1 for every entry of every site of a table.

    A score says by its `of` what it is handed, [positions, units]: `change`, what a closed gate takes away at each kept
    token (x - ref, for a unit with dimensions of its own their Euclidean norm); `gradient`, -d metric / d gate of each
    token; or `row gradient`, that of one gate for a whole row.
    """

    def __init__(self, units: Units, data: Any, limits: Limits, scores: Sequence[Shared], *,
                 ref: str | Reference | None = None):
        self.places, self.reference = places(units, ref, data, limits), reference_name(units, ref)
        self.totals = [(score.how["of"], Total(score, len(units.frame))) for score in scores]
        self.backward = any(of != "change" for of, _ in self.totals)
        self.of_data = units.kind.axis == "t"
        self.leaves: list[Tensor] = []

    def watching(self, part: Part) -> dict[Site, Touch]:
        self.leaves.clear()
        return {place.site: self._touch(place, part) for name, place in self.places.items() if name in part.members}

    def _touch(self, place: Place, part: Part) -> Touch:
        members = part.members[place.name]

        def touch(x: Tensor, at: At) -> Tensor | None:
            z, rest = place.site.cut.split(x, at)
            form = entries(place.site.cut, place.axis, z, rest, at)
            if any(of == "change" for of, _ in self.totals):
                self._change(place, part, form, z, at)
            if not self.backward:
                return None
            shape = [1 if i in form.own else n for i, n in enumerate(z.shape)]
            gate = z.new_ones(()).expand(shape).requires_grad_()  # a leaf that takes no memory

            def take(gate: Tensor) -> None:
                self._gradient(members, form, -gate.grad, place.size)  # type: ignore[operator]
                gate.grad = None
            gate.register_post_accumulate_grad_hook(take)
            self.leaves.append(gate)
            return Edit(replace(place.site, cut=Opened(place.site.cut, z, rest)), place.ref, gate)(x, at)
        return touch

    @torch.no_grad()
    def _change(self, place: Place, part: Part, form: Entries, z: Tensor, at: At) -> None:
        change = z - torch.as_tensor(place.ref(z, at)).to(z)
        if form.own:
            change = torch.linalg.vector_norm(change, dim=form.own, keepdim=True)
        if not bool(torch.isfinite(change).all()):
            raise ValueError(f"{place.name} holds NaN or infinity; look for it in the network's weights or inputs.")
        mask = form.mask(part.batch.keep, z)
        flat, index = _wide(form.flat(change)), None if form.units is None else form.flat(form.units)
        if mask is not None:
            flat, index = flat[mask.flatten()], None if index is None else index[mask.flatten()]
        self._add("change", part.members[place.name], flat, index, place.size)

    def _gradient(self, members: tuple[np.ndarray, np.ndarray], form: Entries, values: Tensor, size: int) -> None:
        """values: -d metric / d gate in the shape of the cut tensor."""
        flat, index = _wide(form.flat(values)), None if form.units is None else form.flat(form.units)
        self._add("gradient", members, flat, index, size)
        if any(of == "row gradient" for of, _ in self.totals):
            rows = flat.reshape(len(values), -1, flat.shape[-1])
            if index is None:
                summed = rows.sum(1)
            else:
                summed = flat.new_zeros(len(values), size).scatter_add(1, index.reshape(len(values), -1), rows.flatten(1))
            self._add("row gradient", members, summed, None, size)

    def _add(self, of: str, members: tuple[np.ndarray, np.ndarray], flat: Tensor, index: Tensor | None, size: int) -> None:
        for wanted, total in self.totals:
            if wanted == of:
                total.add(members, flat, index, size)

    def passed(self, part: Part) -> None:
        for _, total in self.totals:
            if total.how["per"] == "row":
                for rows, _ in part.members.values():
                    total.n[rows] += 1 if self.of_data else len(part.batch.rows)

    def columns(self) -> list[np.ndarray]:
        return [total.column() for _, total in self.totals]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
