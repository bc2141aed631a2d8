"""The report in the terminal: the same figures, features and sentences, drawn with rich."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import sentences, tokens, words
from .contents import Acting, Feature, Heads, Learning, Report, ScoreMap, Steering
from .values import Missing, Shown, spaced

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

LEVELS = " ▁▂▃▄▅▆▇█"


def sparkline(counts: Sequence[float]) -> str:
    """Numbers as a row of small bars; only zero has none, and a value that is no number is a dash."""
    most = max((c for c in counts if math.isfinite(c)), default=0.0)
    return "".join(words.DASH if not math.isfinite(c) else LEVELS[math.ceil(8 * max(c, 0) / most) if most > 0 else 0]
                   for c in counts)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", left: Sequence[int] = (0,)) -> Table:
    """A table whose figures stand on the right; `left` names the columns of words."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(tokens.printable(title)) if title else None, title_justify="left", title_style="dim",
                 box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        longest = max([len(str(row[i])) for row in rows], default=0)
        # Figures stay whole, and the first column keeps room for words, also in a narrow terminal.
        made.add_column(name, justify="left" if i in left else "right", overflow="fold",
                        no_wrap=i not in left and longest <= 18, min_width=min(15, longest) if i == 0 else None)
    for row in rows:
        made.add_row(*(Text(tokens.printable(cell)) for cell in row))  # never read as markup
    return made


def figures(found: Sequence[Shown], title: str = "") -> Table:
    """Each figure with its interval, n and baseline; the reason where it is missing."""
    rows = [(w.name, w.value, w.unit, w.interval, w.n, w.reason if w.value == words.DASH else w.against)
            for w in map(words.written, found)]
    return table(["figure", "value", "", "95% interval", "measured on", "against"], rows, title, left=(0, 2, 5))


def learning(part: Learning) -> list[RenderableType]:
    return [figures(part.figures), f"how often features fire  {sparkline(part.frequencies.counts)}"]


def feature(found: Feature, width: int = 100, contexts: int = 3) -> RenderableType:
    """One feature: how often it fires, what it favours, and text from its top and from across its range."""
    from rich.console import Group
    from rich.text import Text

    rate = words.written(found.frequency)
    head = Text.assemble((f"Feature {found.id}", "bold"), f"  {tokens.printable(found.label)}" if found.label else "",
                         (f"  fires on {rate.value} of {rate.n}, at most {words.number(found.maximum)}", "dim"))
    lines: list[RenderableType] = [head, Text.assemble(("  how hard   ", "dim"), sparkline(found.activations.counts[:40]))]
    for said, effects in (("favours", found.promoted), ("disfavours", found.suppressed)):
        shown = "  ".join(tokens.short(token) for token, _ in effects[:8]) or words.DASH
        lines.append(Text.assemble((f"  {said:<10} ", "dim"), shown, no_wrap=True, overflow="ellipsis"))
    for said, group in (("hardest", found.top), ("its range", spaced(found.spread, contexts)[0])):
        for context in group[:contexts]:
            line = Text.assemble((f"  {said:<10} {words.number(context.height):>6}  ", "dim"), no_wrap=True)
            lines.append(line.append_text(tokens.line(context, found.maximum, max(width - len(line), 20))))
    return Group(*lines, "")


def cell(share: float, background: str) -> tuple[str, str]:
    """One field of a map and its style: a colour, under which the sign and tenths of the largest show where there is none."""
    return f"{'-' if share < 0 else '+'}{min(9, int(10 * abs(share)))}", f"not bold {background} on {background}"


def heat(found: ScoreMap) -> Text:
    """A map of blocks (down) by heads (across): blue is positive, orange negative, a dash was not measured."""
    from rich.text import Text

    finite = [v for row in found.values for v in row if math.isfinite(v)] or [math.nan]
    most = max(map(abs, finite))
    drawn = Text(f"{found.name}\n", style="bold")
    for i, row in enumerate(found.values):
        drawn.append(f"{i:>3} ", "not bold dim")
        for value in row:
            if not math.isfinite(value):
                drawn.append(f"{words.DASH} ", "not bold dim")
                continue
            shade = math.sqrt(abs(value) / most) if most else 0.0
            end = (11, 79, 138) if value >= 0 else (179, 74, 0)
            colour = ",".join(f"{238 + shade * (e - 238):.0f}" for e in end)
            drawn.append(*cell(value / most if most else 0.0, f"rgb({colour})"))
        drawn.append("\n")
    drawn.append(f"    {words.number(min(finite))} to {words.number(max(finite))} {found.unit}", "not bold dim")
    return drawn


def heads(part: Heads) -> list[RenderableType]:
    from rich.columns import Columns

    rows = []
    for e in part.estimators:
        w = words.written(e.agreement)
        rows.append((e.name, w.value, w.interval, w.n, e.cost, words.duration(e.seconds)))
    return [Columns([heat(m) for m in part.maps], padding=(0, 4)),
            table(["score", "rank correlation", "95% interval", "measured on", "cost", "time"], rows, left=(0, 4))]


def acting(part: Acting) -> list[RenderableType]:
    rows = []
    for name, loss, kl in (("nothing", part.untouched, Missing("kl", "the network against itself")),
                           *((a.name, a.loss, a.kl) for a in part.ablations)):
        loss_, kl_ = words.written(loss), words.written(kl)
        rows.append((name, loss_.value, loss_.interval, loss_.n, kl_.value, kl_.interval, kl_.n))
    title = f"loss in {part.untouched.unit}; KL against {sentences.baseline(part)}"
    return [table(["closed", "loss", "95% interval", "measured on", "KL", "95% interval", "measured on"], rows, title)]


def steering(part: Steering) -> list[RenderableType]:
    rows = [(s.prompt + s.before, s.prompt + s.after) for s in part.samples]
    return [table(["as it is", "steered"], rows, left=(0, 1)), figures(part.figures, "What it costs on neutral text")]


def summary(report: Report, console: Console | None = None, features: int = 4) -> None:
    """Print a report section by section, with the first few of its features."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    draw: dict[str, Callable[..., list[RenderableType]]] = {
        "learning": learning, "features": lambda part: [feature(f, console.width) for f in part[:features]],
        "heads": heads, "acting": acting, "steering": steering,
    }
    for i, (name, heading, _, found) in enumerate(sentences.sections(report), 1):
        console.print()
        console.print(Text(f"{i}  {heading}", style="bold"))
        console.print(Text(tokens.printable(found)))
        console.print()
        for drawn in draw[name](getattr(report, name)):
            console.print(drawn)
