"""Scores by name: which there are for a table, and several of them in as few passes as they can share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..catalogue import Method, find, methods
from .column import Column
from .sweep import Shared, sweep

if TYPE_CHECKING:
    from ..units import Units


def only(*kinds: str) -> Callable[[Units], str]:
    """What a score that is defined for some kinds of unit says to the others."""
    def refuses(units: Units) -> str:
        if units.kind.name in kinds:
            return ""
        return f"it is defined for {' and '.join(kinds)}, and these are {units.kind.name}."
    return refuses


def defined(units: Units) -> list[str]:
    """The names of all cheap scores that are defined for the units of a table."""
    return [name for name, m in methods("score").items() if name != "exact" and not (m.refuses and m.refuses(units))]


def run(units: Units, names: Sequence[str], data: Any, **options: Any) -> dict[str, Column]:
    """Several scores of the units of a table by name, in as few passes as they can share."""
    found = {name: find(name, "score") for name in names}
    for name, known in found.items():
        why = known.refuses(units) if known.refuses else ""
        if why:
            raise ValueError(f"{name} has no meaning here: {why} {_others(units)}")
    takes = {name: list(known.signature.parameters)[2:] for name, known in found.items()}
    all_options = dict.fromkeys(option for own in takes.values() for option in own)
    unknown = [option for option in options if option not in all_options]
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r} of {', '.join(names)}; there are {', '.join(all_options)}.")
    columns: dict[str, Column] = {}
    for name, known in found.items():
        if name in columns:
            continue
        together = _sharing(known.object, found)
        given = {option: value for option, value in options.items() if any(option in takes[n] for n in together or [name])}
        if together:
            columns.update(zip(together, sweep(units, data, list(together.values()), **given), strict=True))
        else:
            columns[name] = known.object(units, data, **given)
    return {name: columns[name] for name in names}


def _sharing(score: Callable[..., Any], found: dict[str, Method]) -> dict[str, Shared]:
    """The scores that share their passes with this one, itself among them; none where it has passes of its own."""
    shared = {name: known.object for name, known in found.items() if isinstance(known.object, Shared)}
    return {name: other for name, other in shared.items() if isinstance(score, Shared) and other.within is score.within}


def takes_data(name: str) -> bool:
    """Whether a score reads data; scores of parameters alone do not."""
    return "tokens" in inspect.signature(find(name, "score").object).parameters


def _others(units: Units) -> str:
    return f"For {units.kind.name} there are {', '.join(defined(units))}."
