"""What the pages draw: text with a feature's activations, and charts. Colours are classes, for the policy forbids styles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

from markupsafe import Markup

from ..report.charts import BOTTOM, LEFT, TOP, nothing
from ..report.svg import Scale, axes, figure, fit, label, tag, text
from ..report.tokens import EMPTY, dedent, share, visible
from .sentences import number

SHADES = 20


@lru_cache(maxsize=1 << 16)
def _shown(token: str) -> str:
    """A token as HTML."""
    return escape(visible(token)).replace("⏎", "<i>⏎</i>")


def marked(tokens: Sequence[str], activations: Sequence[float], maximum: float, peak: int | None = None) -> Markup:
    """Tokens as HTML: the shade of each is its activation over `maximum` in twentieths, the peak is underlined."""
    parts = []
    for i, (token, activation) in enumerate(zip(dedent(list(tokens)), activations, strict=True)):
        shown = _shown(token)
        shade = math.ceil(SHADES * share(activation, maximum)) if activation > 0 else 0
        if shade or i == peak:
            at = f' title="{activation:.3g}"' if shade else ' title="silent here"'
            shown = f'<mark class="a{shade}{" p" * (i == peak)}"{at}>{shown or EMPTY}</mark>'
        parts.append(shown)
    return Markup("".join(parts))  # noqa: S704  every token went through escape


def bars(found: Mapping[str, Any], x_label: str, description: str, to: str = "",
         width: float = 300, height: float = 150, space: str = "log", counted: str = "tokens") -> Markup:
    """A histogram {edges, counts}. to: an address with a query; with `bin=` added, each bar opens it."""
    edges, counts = found["edges"], found["counts"]
    if not any(counts):
        return nothing(description, width)
    x = Scale("linear", edges[0], edges[-1] if edges[-1] > edges[0] else edges[0] + 1, LEFT, width - 8)
    low = 0.7 if space == "log" else 0.0
    y = Scale(space, low, max(counts) * 1.05 + 0.2, height - BOTTOM, TOP)
    places, ground, parts = [x(edge) for edge in edges], y(low), []
    for i, count in enumerate(counts):
        if not count:
            continue
        left, wide, above = places[i], places[i + 1] - places[i], y(count)
        span = f"{edges[i]:.3g} to {edges[i + 1]:.3g}"
        drawn = tag("rect", tag("title", f"{span}: {count:,}"), x=left, width=max(wide - 1, 0.5), y=above,
                    height=ground - above, class_="bar")
        if to:
            behind = tag("rect", x=left, width=max(wide, 0.5), y=TOP, height=ground - TOP, class_="reach")
            there = f"{to}&bin={i}"
            drawn = tag("a", behind, drawn, href=there, hx_get=there, hx_target="#interval", class_="bin",
                        aria_label=f"contexts with an activation from {span}")
        parts.append(drawn)
    return figure(width, height, f"{description}: {sum(counts):,} values from {edges[0]:.3g} to {edges[-1]:.3g}",
                  axes(x, y, x_label, counted), *parts)


def strip(line: Mapping[str, Any], width: float = 220) -> Markup:
    """A figure of a profile between its controls: a dot with its interval, a bar for each floor, ceiling and other."""
    def known(value: Mapping[str, Any]) -> bool:
        return value["value"] is not None

    controls = {name: v for name, v in line["controls"].items() if known(v)}
    own = line["figure"]
    values = [v[end] for v in (*controls.values(), own) for end in ("value", "low", "high") if v[end] is not None]
    if not known(own) or not values:
        return Markup("")
    x = fit(values, 8, width - 8)
    parts = [tag("line", x1=8, x2=width - 8, y1=16, y2=16, class_="grid")]
    for name, v in controls.items():
        parts.append(tag("rect", tag("title", f"{name} ({v['role']}): {number(v['value'])}"), x=x(v["value"]) - 1.5, y=9.0,
                         width=3.0, height=14.0, class_=f"at {v['role']}"))
    if own["low"] is not None and own["high"] is not None:
        parts.append(tag("line", x1=x(own["low"]), x2=x(own["high"]), y1=16, y2=16, class_="whisker"))
    parts.append(tag("circle", tag("title", f"{line['name']}: {number(own['value'])}"), cx=x(own["value"]), cy=16, r=4.5,
                     class_="dot"))
    return figure(width, 32, f"{line['name']} {number(own['value'])} among its controls", *parts)


def heat(values: Sequence[Sequence[float]], x_name: str, y_name: str, description: str) -> Markup:
    """A map of rows by columns: the shade follows the square root of the size, blue above zero and orange below."""
    columns = max((len(row) for row in values), default=0)
    finite = [v for row in values for v in row if math.isfinite(v)]
    if not finite:
        return nothing(description, 200)
    cell = max(3.0, min(30.0, 420 / max(columns, len(values))))
    most, left, top, every = max(map(abs, finite)), 44.0, 22.0, math.ceil(20 / cell)
    parts = [text(left - 8, top - 7, y_name, "label", "end"), text(left + cell * columns + 4, top - 7, x_name, "label")]
    parts += [text(left + cell * (j + 0.5), top - 7, j, anchor="middle") for j in range(0, columns, every)]
    parts += [text(left - 8, top + cell * (i + 0.5) + 4, i, anchor="end") for i in range(0, len(values), every)]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            known = math.isfinite(value)
            shade = round(SHADES * math.sqrt(abs(value) / most)) if known and most else 0
            said = f"{y_name} {i}, {x_name} {j}: {f'{value:.3g}' if known else 'not measured'}"
            parts.append(tag("rect", tag("title", said), x=left + cell * j, y=top + cell * i, width=cell - 1.5,
                             height=cell - 1.5, class_=f"cell {'none' if not known else 'minus' if value < 0 else 'plus'} "
                                                      f"v{shade}"))
    key = f"{label(float(f'{min(0.0, min(finite)):.2g}'))} to {label(float(f'{most:.2g}'))}"
    bottom = top + cell * len(values)
    return figure(left + cell * columns + 60, bottom + 26, f"{description}: {len(finite)} values", *parts,
                  text(left, bottom + 18, key))


def profile(values: Sequence[float], x_label: str, description: str, width: float = 460, height: float = 180) -> Markup:
    """A value for each block, as bars from zero."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return nothing(description, width)
    y = fit(finite, height - BOTTOM, TOP, include=[0.0])
    x = Scale("linear", 0, len(values), LEFT, width - 8)
    wide = max(1.0, (x.end - x.start) / len(values) - 3)
    parts = [tag("rect", tag("title", f"{x_label} {i}: {value:.3g}"), x=x(i) + 1.5, width=wide, y=min(y(value), y(0)),
                 height=max(abs(y(value) - y(0)), 0.5), class_="bar" if value >= 0 else "bar s0")
             for i, value in enumerate(values) if math.isfinite(value)]
    parts += [text(x(i + 0.5), y.start + 17, i, anchor="middle") for i in range(0, len(values), max(1, len(values) // 12))]
    lines = [tag("line", x1=x.start, x2=x.end, y1=y(v), y2=y(v), class_="grid") for v in y.ticks(4)]
    lines += [text(x.start - 6, y(v) + 4, label(v), anchor="end") for v in y.ticks(4)]
    return figure(width, height, f"{description}: {len(finite)} values", *lines, *parts, text(x.end, y.start + 34, x_label,
                                                                                             "label", "end"))
