"""The size of a unit's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..catalogue import method
from .column import Column, facts_without_data
from .maps import by_site, maps_of, without_weights

if TYPE_CHECKING:
    from ..units import Units


@method("magnitude", family="score", title="Size of weights", refuses=without_weights,
        paper="Han et al. 2015, arXiv:1506.02626; for whole filters Li et al. 2016, arXiv:1608.08710")
def magnitude(units: Units, data: Any = None) -> Column:
    """|w|, summed over a unit's weights; no data is read.

    The weights of a row are those of one output, the weights of a neuron, a head or another input are the columns that
    read it.
    """
    maps = maps_of(units)
    values = by_site(units, lambda name: maps[name].units(maps[name].weight.abs()))
    return Column(values, facts_without_data("magnitude", units))
