"""How many of the smallest weights can go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..scores.findings.essential_sparsity import GRID, Sparsity, essential_sparsity
from .finding import Asked, Finding, Spread, Table


def found(asked: Asked, *, how: str = "global", metric: str = "loss", grid: Sequence[float] = GRID, epsilon: float = 0.01,
          sites: Sequence[str] = ()) -> Finding:
    """How a metric gets worse as more and more of the smallest weights are left out, beside weights drawn at random.

    how: global, layer, n:4 or n:8. metric: of `cutaway.measure`'s. grid: the sparsities. epsilon: how much worse, as a share,
    is still as good. sites: which weights, such as blocks.*.mlp; all linear maps inside the blocks by default.
    """
    curves: dict[str, list[Sparsity]] = {how: [], "random": []}
    options: dict[str, Any] = dict(metric=metric, grid=tuple(grid), epsilon=epsilon, sites=tuple(sites) or None)
    for i, part in enumerate(asked.each(asked.slices)):
        smallest = essential_sparsity(asked.net, part, how=how, **options)
        curves[how].append(smallest)
        curves["random"].append(essential_sparsity(asked.net, part, how="random", dense=smallest.dense, seed=asked.seed + i,
                                                   **options))
    values = {name: Spread.of(curve.values for curve in made) for name, made in curves.items()}
    essential = {name: Spread.of(curve.essential for curve in made) for name, made in curves.items()}
    dense = Spread.of(curve.dense for curve in curves[how])
    reached = {name: np.mean([curve.sparsity for curve in made], 0).tolist() for name, made in curves.items()}
    figures = {"metric": metric, "dense": dense.json(), "epsilon": epsilon, "sparsity": reached,
               "values": {name: spread.json() for name, spread in values.items()},
               "essential": {name: spread.json() for name, spread in essential.items()},
               "essential by part": {name: [curve.essential for curve in made] for name, made in curves.items()}}
    rows = [(f"{share:.0%}", values[how].at(i), values["random"].at(i)) for i, share in enumerate(reached[how])]
    table = Table(("left out", f"{metric}, smallest weights ({how})", f"{metric}, random weights"),
                  [("none", dense.at(), dense.at()), *rows], "Mean over parts of the data, with its 95% interval")
    return Finding("essential-sparsity", tuple(_said(figures, how, values, essential, dense)), table, figures,
                   {**asked.about, "options": {"how": how, **options}}, (6.4, 4.0), draw)


def _said(figures: dict[str, Any], how: str, values: dict[str, Spread], essential: dict[str, Spread],
          dense: Spread) -> list[str]:
    def share(name: str) -> str:
        mean, low, high = (float(x) for x in (essential[name].mean, essential[name].low, essential[name].high))
        return f"{mean:.0%}" + (f" [{low:.0%}, {high:.0%}]" if low < high else "")

    last = figures["sparsity"][how][-1]
    as_good = float(essential[how].mean) >= last
    beyond = f"; even at {last:.0%} it is as good, so that the knee lies beyond" if as_good else ""
    return [f"Up to {share(how)} of the smallest weights ({how}) can be left out with {figures['metric']} at most "
            f"{figures['epsilon']:.0%} worse than {dense.at()}, and up to {share('random')} of weights drawn at random"
            f"{beyond}.",
            f"With {last:.0%} left out it is {values[how].at(-1)}, at random {values['random'].at(-1)}. Nothing was trained "
            "after pruning, so this is the least that can go."]


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """The metric by sparsity, with the line of what is still as good."""
    axes = figure.subplots()
    for name, values in figures["values"].items():
        label = "random weights" if name == "random" else f"smallest weights ({name})"
        colour = "#8a8c92" if name == "random" else "#20639b"
        at = figures["sparsity"][name]
        axes.plot(at, values["mean"], marker=".", color=colour, label=label)
        low, high = (np.asarray(values[end], float) for end in ("low", "high"))
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        knee = figures["essential"][name]["mean"]
        if knee:
            axes.axvline(knee, color=colour, linewidth=0.8, linestyle=":")
    axes.axhline(figures["dense"]["mean"], color="black", linewidth=0.8, linestyle="--", label="all weights")
    axes.set(xlabel="share of the weights left out (dotted: the essential sparsity)", ylabel=figures["metric"])
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
