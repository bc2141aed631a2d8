"""The command that compares methods with each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import folder
from .screen import say, show


def bench(what: Annotated[Literal["dictionaries"], tyro.conf.Positional], /, out: Path = Path("runs/bench-dictionaries"),
          scenes: tuple[str, ...] = (), methods: tuple[str, ...] = (), seeds: int = 3, samples: str = "200k", batch: int = 256,
          frontier: bool = True, tune: bool = True, quick: bool = False,
          show: bool = False) -> None:
    """Train every method at equal L0 on activations with known features and on pico; write one table and one plot.

    Each training is kept when it is finished, so that the same command goes on where it stopped.

    Args:
        what: What is compared.
        out: Folder for the trainings, dictionaries.md, dictionaries.json and dictionaries.png.
        scenes: Names of worlds, such as correlated, or pico; left out, all but the full SynthSAEBench (synth-sae-bench), which
            takes days here.
        methods: Names from the catalogue, such as topk jumprelu; left out, all that learn from activations alone.
        seeds: How many times each is trained, each time from another seed.
        samples: Activations of each training.
        batch: Activations of each step.
        frontier: Also train at other L0, where a scene has some, for the plot.
        tune: Try each method at its own learning rate and at 0.3 of it, on validation data; else at its own alone.
        quick: A few methods, seeds and samples, to see whether it works.
        show: Train nothing; write the table and the plot of what is there.
    """
    from dataclasses import replace

    from ..bench import QUICK, Plan, kept, report
    from ..bench import bench as run
    from ..counts import count_of
    given = Plan(scenes or Plan().scenes, methods, tuple(range(seeds)), count_of(samples), batch,
                 (1.0, 0.3) if tune else (1.0,), frontier)
    plan = replace(QUICK, scenes=scenes or QUICK.scenes, methods=methods or QUICK.methods) if quick else given
    fixed = (seeds, samples, batch, frontier, tune) != (3, "200k", 256, True, True)
    if quick and fixed:
        raise ValueError("--quick has seeds, samples, batch, frontier and tune of its own; leave those out, or --quick.")
    if seeds < 1:
        raise ValueError(f"a comparison needs at least one seed; found --seeds {seeds}.")
    if show and not (out / "budget.json").exists():
        raise ValueError(f"there are no trainings in {out}; run the same without --show first.")
    if not (out / "config.json").exists():
        folder.begin(out, "bench", {"what": what, "out": out, "scenes": scenes, "methods": methods, "seeds": seeds,
                                    "samples": samples, "batch": batch, "frontier": frontier, "tune": tune, "quick": quick})
    found = kept(out, plan) if show else run(out, plan)
    path = report(out, found, json.loads((out / "budget.json").read_text(encoding="utf-8")))
    _print(path.read_text(encoding="utf-8"))
    say(f"The table is {path}, the plot {path.with_suffix('.png')}, and every figure is in {path.with_suffix('.json')}.")


def _print(report: str) -> None:
    """A report in Markdown, its tables as tables of the terminal."""
    table: list[list[str]] = []
    for line in [*report.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip().replace("**", "") for cell in line.strip("|").split("|")])
            continue
        if table:
            show(table[0], table[2:])
            table = []
        say(line)
