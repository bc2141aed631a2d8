"""What commands print: tables and sentences as wide as the terminal, and 100 columns where there is none."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

WIDTH = 100
BETWEEN = 3         # columns of the terminal between two of a table
NAME, WORD, FIGURE = 22, 14, 24     # letters that stay whole: of what a row is about, of other words, of a figure


def width() -> int:
    """The terminal's columns, or what COLUMNS says."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def console() -> Console:
    """A rich console of that width."""
    from rich.console import Console
    return Console(highlight=False, width=width())


def say(text: object = "", indent: int = 2) -> None:
    """Print text; lines that are too long are folded between words, and what follows is set in by `indent` more.

    Words without a space, such as paths, stay whole.
    """
    for line in str(text).split("\n"):
        under = " " * (len(line) - len(line.lstrip()) + indent)
        print("\n".join(textwrap.wrap(line, width(), subsequent_indent=under, break_long_words=False, break_on_hyphens=False)))


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", left: Sequence[int] = (0,)) -> None:
    """Print a table; columns for which there is no room follow in a second one, beside the first column again."""
    from ..report import terminal
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    least = [_least(name, column, NAME if i == 0 else WORD if i in left else FIGURE)
             for i, (name, column) in enumerate(zip(columns, cells, strict=True))]
    fits = max(2, sum(needed <= width() + 1 for needed in accumulate(n + BETWEEN for n in least)))
    made = terminal.table(columns[:fits], [row[:fits] for row in rows], title, [i for i in left if i < fits])
    wanted = [max(map(len, (name, *column))) for name, column in zip(columns, cells, strict=True)]
    for column, share in zip(made.columns, _shared(width() - BETWEEN * fits + 1, least[:fits], wanted[:fits]), strict=True):
        column.width, column.no_wrap = share, False
    console().print(made)
    if fits < len(columns):
        rest = [0, *range(fits, len(columns))]
        show([columns[i] for i in rest], [[row[i] for i in rest] for row in rows], "",
             [at for at, i in enumerate(rest) if i in left])


def _least(name: str, cells: Sequence[str], whole: int) -> int:
    """The narrowest that a column can be: up to so many letters stay whole, and what is longer folds between words."""
    parts = [part for cell in cells for part in ([cell] if len(cell) <= whole else cell.split())]
    return max(min(max(map(len, parts), default=0), whole), *map(len, name.split()), 1)


def _shared(room: int, least: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Widths of columns: the least of each, and of what room is left most for what wants most."""
    widths = list(least)
    while sum(widths) < room:
        most = max(range(len(widths)), key=lambda i: wanted[i] - widths[i])
        if wanted[most] <= widths[most]:
            break
        widths[most] += 1
    return widths


def frame(table: DataFrame, title: str = "", left: Sequence[int] = (0,)) -> None:
    """Print a table of pandas, its numbers to three decimals."""
    def said(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)
    show([str(name).replace("_", " ") for name in table.columns],
         [[said(value) for value in row] for row in table.itertuples(index=False)], title, left)
