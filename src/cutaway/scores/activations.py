"""One forward pass: how large is what a closed gate would take away, of every unit at every token, at all sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..network import At, Enough
from ..network.edit import Reference
from .column import Column, Shared, Totals, facts
from .places import Place, entries, places, reference_name
from .reading import Limits, Part, Reader

if TYPE_CHECKING:
    from ..units import Units


@torch.no_grad()
def sizes(units: Units, data: Any, scores: Sequence[Shared], *, ref: str | Reference | None = None,
          tokens: int | None = None, batch_size: int = 16, seed: int | None = None,
          progress: bool = False) -> list[Column]:
    """Scores of |x - ref| of each entry over the kept tokens, from one forward pass a batch.

    The size of a unit with dimensions of its own, such as a head, is its Euclidean norm.
    ref: what stands in for a closed unit: `zero`, `mean`, `skip`, a function, or none for the usual one of the kind.
    tokens: use the first so many tokens of the data, or, with a seed, as many from rows drawn by it.
    """
    limits = Limits(tokens, batch_size, seed)
    where, totals = places(units, ref, data, limits), Totals(units, scores)
    reader = Reader(units, data, limits, progress)
    for part in reader:
        _forward(units, where, part, totals)
        reader.passed(len(part.batch.rows))
    return [Column(values, facts(score.__name__, reader, reference_name(units, ref), None))
            for score, values in zip(scores, totals.columns(), strict=True)]


def _forward(units: Units, where: dict[str, Place], part: Part, totals: Totals) -> None:
    """Add one batch; the pass stops after the last site."""
    left = set(part.members)

    def seen(place: Place) -> Callable[[Tensor, At], None]:
        def touch(x: Tensor, at: At) -> None:
            z, rest = place.site.cut.split(x, at)
            form = entries(place.site.cut, place.axis, z, rest, at)
            change = z - torch.as_tensor(place.ref(z, at)).to(z)
            size = torch.linalg.vector_norm(change, dim=form.own, keepdim=True) if form.own else change.abs()
            if not bool(torch.isfinite(size).all()):
                raise ValueError(f"{place.name} holds NaN or infinity; look for it in the network's weights or inputs.")
            mask = form.mask(part.batch.keep, z)
            totals.add(part.members[place.name], form, size, place.size, mask)
            index, _ = part.members[place.name]
            totals.n["position"][index] += form.flat(size).shape[0] if mask is None else int(mask.sum())
            left.discard(place.name)
            if not left:
                raise Enough
        return touch

    with units.net.watched({place.site: seen(place) for name, place in where.items() if name in part.members}):
        units.net.run_until_enough(part.batch)
    if left:
        raise ValueError(f"the network's pass did not reach {', '.join(left)}.")
