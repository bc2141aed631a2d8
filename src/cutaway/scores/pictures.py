"""Pictures of scores: where the important units are, and how two scores compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..units import Units


WIDE = 20      # times the median, from which the largest value needs an axis that is linear only around zero


def draw(units: Units, by: str | Sequence[str]) -> Any:
    """A matplotlib figure of one column, of one against another, or of how far more of them agree; not shown or saved here."""
    from matplotlib.figure import Figure
    names = (by,) if isinstance(by, str) else tuple(by)
    columns = [units.column(name).astype(float) for name in names]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    if len(names) == 2:
        _scatter(axes, units, names, columns)
    elif len(names) == 1:
        PICTURES.get(units.kind.name, _histogram)(axes, units, names[0], columns[0])
    elif names:
        _agreement(axes, units, names)
    else:
        raise ValueError("a picture is of at least one column; found none.")
    shown = replace(units, about={name: units.about[name] for name in names if name in units.about})
    axes.set_title("\n".join([units.title(), *shown.notes()]), fontsize=8, loc="left")
    return figure


def _map(axes: Any, units: Units, name: str, values: np.ndarray) -> None:
    """Layers down, heads across. Scores of one sign span orders of magnitude and are shown by theirs; of scores of both
    signs white is nothing and red a rise of the metric when the unit is closed.
    """
    from matplotlib.colors import CenteredNorm, LogNorm
    sites = list(units.sites)
    grid = np.full((len(sites), max(units.sizes[site] for site in sites)), np.nan)
    grid[[sites.index(site) for site in units.frame["site"]], units.frame["unit"]] = values
    positive = bool(np.nanmin(grid) > 0)
    image = axes.imshow(grid, aspect="auto", cmap="viridis" if positive else "RdBu_r",
                        norm=LogNorm() if positive else CenteredNorm())
    bar = axes.figure.colorbar(image, label=name)
    if positive:
        _plainly(bar.ax.yaxis, grid)
    axes.set(xlabel=units.kind.name.removesuffix("s"), ylabel="block")
    axes.set(xticks=range(grid.shape[1]), yticks=range(len(sites)))
    axes.set_yticklabels([units.sites[site].block if units.sites[site].block is not None else site for site in sites])


def _agreement(axes: Any, units: Units, names: tuple[str, ...]) -> None:
    """Rank correlations of scores with each other; a constant score has none."""
    table = units.agreement(names)
    axes.figure.set_size_inches(2.6 + 0.48 * len(names), 2.0 + 0.42 * len(names))
    image = axes.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.figure.colorbar(image, label="rank correlation")
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        said, dark = f"{value:.2f}" if np.isfinite(value) else "–", abs(value) > 0.6
        axes.text(j, i, said, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    axes.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
    axes.set_xticklabels(names, rotation=90)


def _profile(axes: Any, units: Units, name: str, values: np.ndarray) -> None:
    axes.bar(range(len(values)), values, color="#3b6ea5")
    axes.axhline(0, color="black", linewidth=0.6)
    labels = [site.removeprefix("blocks.") for site in units.frame["site"]]
    axes.set(xlabel=units.kind.name.removesuffix("s"), ylabel=name, xticks=range(len(values)))
    axes.set_xticklabels(labels, rotation=90 if max(map(len, labels)) > 3 else 0)


def _tokens(axes: Any, units: Units, name: str, values: np.ndarray) -> None:
    for row, group in units.frame.groupby("row", sort=False):
        axes.plot(group["unit"], values[group.index], marker=".", linewidth=0.8, label=f"row {row}")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="position", ylabel=name)
    axes.legend(fontsize=7)


def _histogram(axes: Any, units: Units, name: str, values: np.ndarray) -> None:
    axes.hist(values[np.isfinite(values)], bins=60, color="#3b6ea5")
    axes.set(xlabel=name, ylabel=units.kind.name, yscale="log")


def _scatter(axes: Any, units: Units, names: tuple[str, ...], columns: list[np.ndarray]) -> None:
    blocks = units.frame["block"].astype(float) if "block" in units.frame else None
    axes.set(xlabel=names[0], ylabel=names[1])
    for scale, axis, values in zip((axes.set_xscale, axes.set_yscale), (axes.xaxis, axes.yaxis), columns, strict=True):
        size = np.abs(values[np.isfinite(values) & (values != 0)])
        if (values > 0).all():
            scale("log")
            _plainly(axis, values)
        elif len(size) and size.max() > WIDE * np.median(size):      # one unit must not press all others into a line
            scale("symlog", linthresh=float(np.median(size)))
    points = axes.scatter(*columns, c=blocks, s=12 if len(units.frame) < 500 else 3, cmap="viridis")
    if blocks is not None and blocks.nunique() > 1:
        axes.figure.colorbar(points, label="block")


def _plainly(axis: Any, values: np.ndarray) -> None:
    """Few and short ticks on an axis of logarithms: 0.01, 0.02, 0.05; only tens where there are more than two of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    wide = np.nanmax(values) > 100 * np.nanmin(values)
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


PICTURES = {"heads": _map, "experts": _map, "layers": _profile, "sublayers": _profile, "tokens": _tokens}
