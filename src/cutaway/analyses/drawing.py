"""Pieces of pictures that the analyses share: lines by block with their intervals, and square maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

COLOURS = ("#20639b", "#c2621b", "#2b8a7e", "#8a8c92", "#7a4fa3")


def lines(axes: Any, series: Mapping[str, Any], y: str, x: str = "block", at: Any = None, log: bool = False) -> None:
    """One line for each series, a list or a spread {mean, low, high}; a shade is the interval. A dashed line begins `~`."""
    for i, (name, values) in enumerate(series.items()):
        spread = isinstance(values, Mapping)
        mean = np.asarray(values["mean"] if isinstance(values, Mapping) else values, float)
        place = np.arange(len(mean)) if at is None else np.asarray(at, float)
        style: dict[str, Any] = dict(linestyle="--", marker="") if name.startswith("~") else dict(marker=".")
        axes.plot(place, mean, color=COLOURS[i % len(COLOURS)], linewidth=1.4, label=name.removeprefix("~"), **style)
        if spread:
            low, high = (np.asarray(values[end], float) for end in ("low", "high"))
            axes.fill_between(place, low, high, color=COLOURS[i % len(COLOURS)], alpha=0.18, linewidth=0)
    axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    if at is None:
        axes.set_xticks(range(len(mean)))
    axes.grid(alpha=0.25)
    if len(series) > 1:
        axes.legend(fontsize=7, frameon=False)


def square(axes: Any, values: Any, y: str, x: str, label: str) -> None:
    """A map of numbers above 0; what was not measured is white, and each cell says its number where there is room."""
    table = np.asarray(values, float)
    image = axes.imshow(table, cmap="Blues", vmin=0)
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    axes.set(xlabel=x, ylabel=y, xticks=range(table.shape[1]), yticks=range(table.shape[0]))
    if table.size <= 200:
        dark = 0.6 * np.nanmax(table)
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5,
                          color="white" if value > dark else "black")


def bars(axes: Any, rows: Mapping[str, tuple[float, float, float]], x: str) -> None:
    """One level bar for each (value, low, high), the first on top, with its interval as a whisker."""
    names = list(rows)[::-1]
    for place, name in enumerate(names):
        value, low, high = rows[name]
        axes.barh(place, value, color=COLOURS[0], height=0.6)
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color="black", linewidth=1.2)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(yticks=range(len(names)), xlabel=x)
    axes.set_yticklabels(names)
    axes.locator_params(axis="x", nbins=4)
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.25)
