"""The profile of a dictionary for the terminal: each figure between its floor and its ceiling, in 80 columns too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ..dictionaries.quality import Line, Profile
from .words import DASH, number

if TYPE_CHECKING:
    from rich.console import RenderableType

ROLES = {"truth": "Against the truth", "core": "Core", "downstream": "Downstream",
         "diagnostic": "Diagnostics: each may mislead alone, and none is a headline"}
WIDTHS = (32, 9, 21, 9)       # of name, value, interval and n
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def shown(value: float) -> str:
    """Three decimals, as floors and ceilings are often near; none for numbers of a hundred and more."""
    return number(value) if abs(value) >= 100 else f"{round(value, 3) + 0.0:.3f}".replace("-", "−")


def columns(*cells: str) -> str:
    name, *rest = cells
    return name.ljust(WIDTHS[0]) + "".join(cell.rjust(width) for cell, width in zip(rest, WIDTHS[1:], strict=True))


def figure(line: Line) -> str:
    """A figure with its interval and n."""
    found = line.figure
    interval = f"{shown(found.low)} to {shown(found.high)}" if found.low == found.low else DASH
    return columns(line.name + ARROWS[line.better], shown(found.value), interval, f"{found.n:,}")


def controls(line: Line) -> Iterator[str]:
    """What it stands between, a role at a time; and its unit, and what it was measured on."""
    for role in ("floor", "ceiling", "beside"):
        found = [f"{name} {DASH if value.undefined else shown(value.value)}" for name, value in line.controls.items()
                 if value.role == role]
        if found:
            yield f"{role}: {', '.join(found)}"
    yield f"{line.unit + ', ' if line.unit else ''}n: {line.figure.of}"


def section(title: str, lines: Sequence[Line]) -> Iterator[RenderableType]:
    """The figures of one kind of metric: each with what may be said of it and its controls below; undefined ones together
    where the reason is the same."""
    from rich.padding import Padding
    from rich.text import Text
    yield Text(f"\n{title}", style="bold")
    yield Text(columns("figure (better: ↑ high, ↓ low)", "value", "95% interval", "n"), style="dim")
    for reason, group in groupby(lines, key=lambda line: line.figure.undefined):
        if reason:
            yield Text.assemble(", ".join(line.name for line in group), (f" {DASH} undefined: {reason}", "dim"))
            continue
        for line in group:
            yield Text(figure(line))
            colour = "dim" if line.tells is None else "green" if line.tells else "yellow"
            verdict = f"{line.verdict}; " if line.better else ""
            yield Padding(Text.assemble((verdict, colour), ("; ".join(controls(line)), "dim")), (0, 0, 0, 4), expand=False)


def tables(found: Profile) -> Iterable[RenderableType]:
    """A section for each kind of metric, after a few lines about what was measured on what."""
    from rich.text import Text
    facts = found.facts
    made = facts["dictionary"]
    shares = facts["share_of_official_budget"]
    where = f"{made['site']} of {facts['network']}, " if facts["network"] else ""
    note = f"\n{facts['note']}" if facts["note"] else ""
    yield Text(f"{where}{made['width']:,} latents; {facts['data']}\n{facts['tokens']:,} tokens of {facts['groups']} "
               f"({shares['reconstruction tokens']:.2%} of the tokens that SAEBench core takes for reconstruction, "
               f"{shares['sparsity tokens']:.2%} of those for sparsity), seeds {', '.join(map(str, facts['seeds']))}; "
               f"{facts['held_out']}{note}", style="dim")
    for role, title in ROLES.items():
        lines = [line for line in found.lines if line.role == role]
        if any(not line.figure.undefined for line in lines) or (lines and role != "truth"):
            yield from section(title, lines)


def failures(found: Profile) -> list[str]:
    """The figures that say nothing about training: a dictionary that nobody trained reaches them too."""
    return [line.name for line in found.lines if line.tells is False]
