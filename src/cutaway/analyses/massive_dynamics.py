"""How the largest activations came about in training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..network import open
from ..network.opening import BUNDLED
from ..report import words
from ..scores.findings.massive_dynamics import FORMS, fit_curve, massive_ratio
from .drawing import COLOURS
from .finding import Asked, Finding, Table

KEPT = "training.json"  # what a bundled network keeps of its own training


def found(asked: Asked, *, checkpoints: str = "", form: str = "modulated", batch_size: int = 16) -> Finding:
    """The ratio of largest to median activation of each block over checkpoints of a training, and a curve fitted to it.

    checkpoints: a folder of models in subfolders that are named by their step, such as step-1000; left out, what a bundled
    network keeps of its training. form: of the curve that is drawn, one of modulated, logarithm, saturating and constant.
    batch_size: rows at a time.
    """
    if form not in FORMS:
        raise ValueError(f"a curve is {', '.join(FORMS)}; found {form!r}.")
    kept = Path(BUNDLED.get(asked.net.name, "")) / KEPT
    if checkpoints:
        steps, ratios = _measured(asked, Path(checkpoints), batch_size)
        about = asked.about
    elif asked.net.name in BUNDLED and kept.exists():
        statistics = json.loads(kept.read_text(encoding="utf-8"))
        steps = [int(name.rpartition("-")[2]) for name in statistics]
        ratios = np.array([row["residual_largest_over_median"] for row in statistics.values()])
        about = {**asked.about, "data": f"what {asked.net.name} keeps of its training", "rows": 0, "tokens": 0}
    else:
        raise ValueError(f"{asked.net.name} says nothing of its training; give checkpoints=FOLDER, with one model in each "
                         "subfolder, named by its step.")
    fewest = len(FORMS["modulated"].names) + 1
    if len(steps) < fewest:
        raise ValueError(f"curves are fitted to {fewest} checkpoints or more; found {len(steps)}.")
    fits = {name: [fit_curve(steps, column, name) for column in ratios.T] for name in FORMS}
    fitted = {name: [{"parameters": c.parameters, "last": c.last, "r2": c.r2, "aicc": c.aicc, "peak": c.peak} for c in curves]
              for name, curves in fits.items()}
    figures = {"steps": steps, "ratios": ratios.tolist(), "form": form, "curves": fitted,
               "drawn": {"steps": (at := np.geomspace(max(min(steps), 1), max(steps), 200)).tolist(),
                         "ratios": [curve(at).tolist() for curve in fits[form]]}}
    best = [min(FORMS, key=lambda name: fits[name][block].aicc) for block in range(ratios.shape[1])]
    table = Table(("block", "first", "last", "greatest", f"r2, {form}", "turns at step", "least AICc"),
                  [(str(i), *map(words.number, (column[0], column[-1], column.max(), fits[form][i].r2, fits[form][i].peak)),
                    best[i]) for i, column in enumerate(ratios.T)], "Largest over median |activation| of the residual stream")
    explained = [curve.r2 for curve in fits[form]]
    said = (f"From step {min(steps):,} to {max(steps):,} the ratio of the largest to the median activation goes from "
            f"{words.number(float(ratios[0].max()))} to {words.number(float(ratios[-1].max()))} in the block where it is "
            "greatest.",
            f"The {form} curve explains {words.number(min(explained))} to {words.number(max(explained))} of its variance over "
            f"{len(steps)} checkpoints; by AICc, which counts parameters, it is the best of {len(FORMS)} forms in "
            f"{sum(name == form for name in best)} of {len(best)} blocks.")
    options = {"checkpoints": checkpoints, "form": form, "batch_size": batch_size}
    return Finding("massive-dynamics", said, table, figures, {**about, "options": options}, (6.4, 4.0), draw)


def _measured(asked: Asked, folder: Path, batch_size: int) -> tuple[list[int], np.ndarray]:
    """The steps of the models in a folder, and their ratios [checkpoints, blocks]."""
    numbered = {int(number[-1]): path for path in sorted(folder.glob("*/")) if (number := re.findall(r"\d+", path.name))}
    if not numbered:
        raise FileNotFoundError(f"{folder} holds no subfolders that are named by a step, such as step-1000.")
    ratios, steps = list[np.ndarray](), sorted(numbered)
    for step in asked.each(steps, "checkpoint"):     # one network in memory at a time
        ratios.append(massive_ratio(open(str(numbered[step])), asked.data, batch_size=batch_size).numpy())
    if len({len(row) for row in ratios}) > 1:
        raise ValueError(f"the checkpoints are of one network; those of {folder} differ in their number of blocks.")
    return steps, np.stack(ratios)


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """The ratios of each block over training, and their curves."""
    axes = figure.subplots()
    for block, column in enumerate(np.array(figures["ratios"]).T):
        colour = COLOURS[block % len(COLOURS)]
        axes.plot(figures["steps"], column, ".", color=colour)
        axes.plot(figures["drawn"]["steps"], figures["drawn"]["ratios"][block], color=colour, linewidth=1.2,
                  linestyle="-" if block < len(COLOURS) else "--", label=f"block {block}")
    axes.set(xlabel="training step", ylabel="largest over median |activation|", xscale="log")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False, title=f"{figures['form']} curves", title_fontsize=7)
