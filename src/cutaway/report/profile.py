"""The profile of a dictionary as tables for the terminal: each figure between its floor and its ceiling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..dictionaries.quality import Line, Profile
from .terminal import table
from .words import DASH, number

if TYPE_CHECKING:
    from rich.console import RenderableType

ROLES = {"truth": "Against the truth", "core": "Core", "downstream": "Downstream",
         "diagnostic": "Diagnostics: each may mislead alone, and none is a headline"}
COLUMNS = ("figure", "value", "95% interval", "n", "floor", "ceiling", "beside", "what may be said")


def shown(value: float) -> str:
    """Three decimals, as floors and ceilings are often near; none for numbers of a hundred and more."""
    return number(value) if abs(value) >= 100 else f"{value:.3f}".replace("-", "−")


def controls(line: Line, role: str) -> str:
    """The controls of one role with their values."""
    return "\n".join(f"{name} {DASH if value.undefined else shown(value.value)}" for name, value in line.controls.items()
                     if value.role == role)


def row(line: Line) -> tuple[str, ...]:
    found = line.figure
    value = DASH if found.undefined else shown(found.value) + (f" {line.unit}" if line.unit else "")
    bounded = found.low == found.low
    return (line.name, value, f"{shown(found.low)} to {shown(found.high)}" if bounded else DASH,
            f"{found.n:,}" if found.n else DASH, *(controls(line, role) for role in ("floor", "ceiling", "beside")),
            line.verdict)


def tables(found: Profile) -> Iterable[RenderableType]:
    """One table for each kind of metric, after a few lines about what was measured on what."""
    from rich.text import Text
    facts = found.facts
    made = facts["dictionary"]
    share = facts["share_of_official_budget"]["reconstruction tokens"]
    where = f"{made['site']} of {facts['network']}, " if facts["network"] else ""
    note = f"\n{facts['note']}" if facts["note"] else ""
    yield Text(f"{where}{made['width']:,} latents; {facts['data']}\n{facts['tokens']:,} tokens of {facts['groups']} "
               f"({share:.0%} of the reconstruction tokens of SAEBench core), seeds "
               f"{', '.join(map(str, facts['seeds']))}; {facts['held_out']}{note}", style="dim")
    for role, title in ROLES.items():
        lines = [line for line in found.lines if line.role == role]
        if any(not line.figure.undefined for line in lines) or (lines and role != "truth"):
            yield table(COLUMNS, [row(line) for line in lines], title, left=(0, 4, 5, 6, 7))


def failures(found: Profile) -> list[str]:
    """The figures that say nothing about training: a dictionary that nobody trained reaches them too."""
    return [line.name for line in found.lines if line.tells is False]
