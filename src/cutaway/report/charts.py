"""Charts as inline SVG, drawn from plain numbers, without JavaScript or any request.

Each one takes its data, its axis labels with their units, and a description for those who cannot see it. Values that
are not finite are left out and never drawn as zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from .svg import Scale, axes, figure, fit, fitting_space, label, tag, text
from .values import Histogram, Series

LEFT, TOP, BOTTOM = 44.0, 28.0, 40.0


def nothing(description: str, width: float = 420, height: float = 60) -> Markup:
    """A chart without data says so."""
    return figure(width, height, f"{description}: no data", text(0, height / 2, "– no data to draw", "label"))


def histogram(data: Histogram, x_label: str, y_label: str, description: str, x_space: str = "linear",
              y_space: str = "log", width: float = 420, height: float = 200) -> Markup:
    """Counts as bars between their edges; on a log axis a bar of one still shows, and an empty bin has none."""
    if not any(data.counts):
        return nothing(description, width)
    x = fit(data.edges, LEFT, width - 8, x_space)
    low = {"log": 0.7, "linear": 0.0}[y_space]
    y = Scale(y_space, low, max(data.counts) * 1.05 + 0.2, height - BOTTOM, TOP)
    bars = []
    for i, count in enumerate(data.counts):
        if count:
            left, right = x(data.edges[i]), x(data.edges[i + 1])
            bars.append(tag("rect", tag("title", f"{data.edges[i]:.3g} to {data.edges[i + 1]:.3g}: {count:,}"),
                            x=left, width=max(right - left - 1, 0.5), y=y(count), height=y(low) - y(count),
                            class_="bar"))
    return figure(width, height, f"{description}: {sum(data.counts):,} values from {data.edges[0]:.3g} to "
                  f"{data.edges[-1]:.3g}", axes(x, y, x_label, y_label), *bars)


def line(series: Sequence[Series], x_label: str, y_label: str, description: str, y_space: str = "linear",
         width: float = 420, height: float = 200) -> Markup:
    """Several series with their names at their ends; a value that is not finite breaks the line."""
    finite = {s.name: [(a, b) for a, b in zip(s.x, s.y, strict=True) if _drawable(a, b, y_space)] for s in series}
    points = [point for found in finite.values() for point in found]
    if not points:
        return nothing(description, width)
    named = series if len(series) > 1 else []  # a single line is named by its axis
    x = fit([a for a, _ in points], LEFT, width - 8 - 7.0 * max((len(s.name) for s in named), default=0))
    y = fit([b for _, b in points], height - BOTTOM, TOP, y_space, include=[0.0] if y_space == "linear" else [])
    parts, ends = [], []
    for i, s in enumerate(series):
        path, pen = "", "M"
        for a, b in zip(s.x, s.y, strict=True):
            if _drawable(a, b, y_space):
                path, pen = f"{path}{pen}{x(a):.1f} {y(b):.1f}", "L"
            else:
                pen = "M"
        parts.append(tag("path", d=path, class_=f"line s{i % 4}"))
        if finite[s.name]:
            a, b = finite[s.name][-1]
            parts.append(tag("circle", tag("title", f"{s.name}: {b:.4g} at {a:,.0f}"), cx=x(a), cy=y(b), r=3,
                             class_=f"dot s{i % 4}"))
            ends += [(y(b) + 4, i, s.name)] * (s in named)
    lowest = -math.inf
    for at, i, name in sorted(ends):  # names that would touch are pushed apart
        lowest = max(at, lowest + 14)
        parts.append(text(x.end + 8, lowest, name, f"name s{i % 4}"))
    said = "; ".join(f"{s.name} ends at {finite[s.name][-1][1]:.3g}" for s in series if finite[s.name])
    return figure(width, height, f"{description}: {said}", axes(x, y, x_label, y_label), *parts)


def _drawable(x: float, y: float, space: str) -> bool:
    return math.isfinite(x) and math.isfinite(y) and (space != "log" or y > 0)


def bars(rows: Sequence[tuple[str, float, float, float]], x_label: str, description: str, origin: float = 0.0,
         origin_label: str = "", width: float = 420, colours: Sequence[str] = ("s0", "s1", "s2", "s3")) -> Markup:
    """One bar a row of (name, value, low, high), from `origin` to its value, with its interval as a whisker where it has one.

    colours: their classes, one after the other and again from the first.
    """
    values = [v for _, *found in rows for v in found if math.isfinite(v)]
    if not values:
        return nothing(description, width)
    left, pitch, top = 8 + 6.6 * max(len(row[0]) for row in rows), 30, 24.0
    x = fit(values, left, width - 52, include=[origin])
    height = top + pitch * len(rows) + BOTTOM
    parts = [tag("line", x1=x(v), x2=x(v), y1=top, y2=height - BOTTOM, class_="grid") for v in x.ticks(4)]
    parts += [text(x(v), height - BOTTOM + 17, label(v), anchor="middle") for v in x.ticks(4)]
    for i, (name, value, low, high) in enumerate(rows):
        middle = top + pitch * (i + 0.5)
        parts.append(text(left - 8, middle + 4, name, "name", "end"))
        if not math.isfinite(value):
            parts.append(text(x(origin) + 6, middle + 4, "–", "name"))
            continue
        ends, known = sorted((x(origin), x(value))), math.isfinite(low) and math.isfinite(high)
        said = f"{name}: {value:.4g}{f' [{low:.4g}, {high:.4g}]' if known else ''}"
        parts.append(tag("rect", tag("title", said), x=ends[0], width=max(ends[1] - ends[0], 0.5), y=middle - 8, height=16.0,
                         class_=f"bar {colours[i % len(colours)]}"))
        if known:
            parts.append(tag("line", x1=x(low), x2=x(high), y1=middle, y2=middle, class_="whisker"))
            ends.append(x(high))
        parts.append(text(max(ends) + 6, middle + 4, f"{value:.3g}", "name"))
    parts.append(tag("line", x1=x(origin), x2=x(origin), y1=top - 4, y2=height - BOTTOM, class_="axis"))
    parts.append(text(x(origin), top - 9, origin_label, anchor="middle" if x(origin) > left + 40 else "start"))
    parts.append(text(width - 52, height - BOTTOM + 34, x_label, "label", "end"))
    said = "; ".join(f"{name} {value:.3g}" for name, value, _, _ in rows)
    return figure(width, height, f"{description}: {said}", *parts)


def heat(values: Sequence[Sequence[float]], x_name: str, y_name: str, unit: str, description: str) -> Markup:
    """A map of rows by columns. Blue is positive, orange negative, and the shade follows the square root of the size.

    A cell that was not measured has no colour and a dash.
    """
    columns = max((len(row) for row in values), default=0)
    finite = [v for row in values for v in row if math.isfinite(v)]
    if not finite:
        return nothing(description, 200)
    cell = max(8.0, min(22.0, 260 / max(columns, len(values))))
    most, left, top = max(map(abs, finite)), 40.0, 18.0
    right, bottom = left + cell * columns, top + cell * len(values)
    every = math.ceil(18 / cell)
    parts = [text(left - 6, top - 5, y_name, "label", "end"), text(right + 2, top - 5, x_name, "label")]
    parts += [text(left + cell * (j + 0.5), top - 5, j, anchor="middle") for j in range(0, columns, every)]
    parts += [text(left - 6, top + cell * (i + 0.5) + 4, i, anchor="end") for i in range(0, len(values), every)]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            known = math.isfinite(value)
            said = f"{y_name} {i}, {x_name} {j}: " + (f"{value:.3g} {unit}" if known else "– (not measured)")
            size, part = cell - 1.5, value / most if most else value
            parts.append(_cell(left + cell * j, top + cell * i, size, size, part, said))
            if not known:
                parts.append(text(left + cell * (j + 0.5) - 1, top + cell * (i + 0.5) + 3, "–", anchor="middle"))
    stops = [s for s in (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0) if s >= 0 or min(finite) < 0]
    parts += [_cell(left + 14 * k, bottom + 8, 14.0, 8.0, s, label(_two(s * most))) for k, s in enumerate(stops)]
    key = f"{label(_two(stops[0] * most))} to {label(_two(most))}"
    end = left + 14 * len(stops) + 6
    parts.append(text(end, bottom + 16, key))
    return figure(max(right + 7 * len(x_name) + 4, end + 7 * len(key)), bottom + 22,
                  f"{description}: {len(finite)} values from {min(finite):.3g} to {max(finite):.3g} {unit}", *parts)


LEGIBLE = 0.2      # of a heat map's range: on all shades up to it, in both themes, a figure stands out 4.5 to 1


def matrix(names: Sequence[str], values: Sequence[Sequence[float]], description: str) -> Markup:
    """Correlations of each name with each other, from -1 to 1: blue agrees, orange goes the other way."""
    cell, left = 40.0, 10 + 6.8 * max((len(name) for name in names), default=0)
    top = left
    parts = []
    for i, name in enumerate(names):
        middle = cell * (i + 0.5)
        parts.append(text(left - 8, top + middle + 4, name, "name", "end"))
        parts.append(tag("text", name, x=0.0, y=0.0, class_="name",
                         transform=f"translate({left + middle + 4:.1f} {top - 8:.1f}) rotate(-90)"))
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            known = math.isfinite(value)
            said = f"{names[i]} and {names[j]}: " + (f"{value:.2f}" if known else "– (one is the same for all)")
            parts.append(_cell(left + cell * j, top + cell * i, cell - 1.5, cell - 1.5, LEGIBLE * value, said))
            shown = f"{value:.2f}".replace("-", "−") if known else "–"
            parts.append(text(left + cell * (j + 0.5) - 1, top + cell * (i + 0.5) + 3, shown, "name", "middle"))
    size = cell * len(names)
    return figure(left + size + 4, top + size + 4, f"{description}: {', '.join(names)}", *parts)


def _cell(x: float, y: float, width: float, height: float, part: float, said: str) -> Markup:
    """One cell of a heat map. part: its value over the largest, -1..1."""
    known = math.isfinite(part)
    shade = 100 * math.sqrt(abs(part)) if known else 0.0
    return tag("rect", tag("title", said), x=x, y=y, width=width, height=height, style=f"--v:{shade:.0f}%",
               class_=f"cell {('plus' if part >= 0 else 'minus') if known else 'none'}")


def _two(x: float) -> float:
    return float(f"{x:.2g}")


def scatter(x_values: Sequence[float], y_values: Sequence[float], names: Sequence[str], x_label: str, y_label: str,
            description: str, width: float = 420, height: float = 260) -> Markup:
    """One dot a unit, its name on hover; an axis with a long tail is on a log or square-root scale and says so."""
    found = [p for p in zip(x_values, y_values, names, strict=True) if math.isfinite(p[0]) and math.isfinite(p[1])]
    if not found:
        return nothing(description, width)
    xs, ys = [p[0] for p in found], [p[1] for p in found]
    x = fit(xs, LEFT + 6, width - 12, fitting_space(xs))
    y = fit(ys, height - BOTTOM - 4, TOP + 4, fitting_space(ys))
    dots = [tag("circle", tag("title", f"{name}: {a:.3g}, {b:.3g}"), cx=x(a), cy=y(b), r=4, class_="dot s0")
            for a, b, name in found]
    return figure(width, height, f"{description}: {len(found)} points", axes(x, y, x_label, y_label), *dots)
