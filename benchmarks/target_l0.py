"""Whether a wanted L0 is reached: every method that trains, told how many latents should fire, and how many do on other text.

    python benchmarks/target_l0.py

All methods of the catalogue learn from the same passes of the bundled model, each where such a dictionary is usually learned,
with `cutaway.learn(..., l0=...)` and nothing else set but the width. L0 and FVU are of the finished dictionaries, on text that
none of them saw.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from workers import machine

import cutaway as cw
from cutaway.catalogue import methods
from cutaway.counts import count_of
from cutaway.dictionaries import Recipe
from cutaway.files import write, write_json
from cutaway.metrics import Reconstruction
from cutaway.observe import activations

RESULTS, NAME = Path(__file__).parent / "results", "target_l0"
CLOSE = 0.05     # of the wanted L0: what counts as reached


def trainable() -> list[str]:
    """The methods whose recipes `cutaway.learn` takes."""
    return [id for id, found in methods("dictionary").items() if {"width", "lr"} <= set(found.signature.parameters)]


def recipe_of(id: str, width: int, l0: int) -> Recipe:
    """A method's recipe of a width; groups are of one size, so their number divides it."""
    make = methods("dictionary")[id].object
    return make(round(width / l0) * l0, l0) if id == "group-max" else make(width)


def told(net: cw.Network, l0: int, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """L0, with its interval over rows of text, and FVU by method."""
    places: dict[str, list[Recipe]] = {}
    for id in options.methods:
        recipe = recipe_of(id, options.width, l0)
        places.setdefault(recipe.wiring.usual(net.n_blocks), []).append(recipe)
    run = cw.learn(net, cw.stdlib(net), places, tokens=options.tokens, seed=seed, l0=l0)
    return measured(net, list(run.dictionaries.values()), cw.stdlib(net, options.split).take(options.test_tokens))


@torch.no_grad()
def measured(net: cw.Network, dictionaries: list[Any], data: Any) -> dict[str, dict[str, float]]:
    """The figures of dictionaries by method, all from one pass over text."""
    sites = sorted({site for made in dictionaries for site in (*made.reads, *made.writes)})
    sums = [[Reconstruction(made.width) for _ in made.writes] for made in dictionaries]
    for seen in activations(net, data, sites):
        for made, found in zip(dictionaries, sums, strict=True):
            x, y = ([seen.tensors[site] for site in some] for some in (made.reads, made.writes))
            keep = made.speaks_for(x, dict(enumerate(y))) & seen.batch.keep
            for row, kept in enumerate(keep):
                codes, guesses = made.passed([z[row][kept] for z in x])
                for one, wanted, guess in zip(found, y, guesses, strict=True):
                    one.update(wanted[row][kept], guess, codes)
    rows = {}
    for made, found in zip(dictionaries, sums, strict=True):
        figures, layers = [one.figures() for one in found], made.width // made.facts.recipe["width"]
        l0 = figures[0]["l0"]
        rows[made.facts.recipe["name"]] = {"l0": l0.value / layers, "low": l0.low / layers, "high": l0.high / layers,
                                           "fvu": sum(figure["fvu"].value for figure in figures) / len(figures)}
    for name, figure in rows.items():
        print(f"{name}: L0 {figure['l0']:.2f}, FVU {figure['fvu']:.4f}", flush=True)
    return rows


def table(kept: dict[str, Any]) -> str:
    """One row for each method: what each seed reached of each wanted L0, and the mean FVU."""
    options, runs = kept["options"], kept["runs"]
    wanted, seeds = (sorted({run[name] for run in runs}) for name in ("told", "seed"))
    text = (f"# Wanted and reached L0\n\n"
            f"The methods that were run, at width {options['width']:,} (near it, where groups must divide it), "
            f"{options['tokens']:,} tokens of {options['model']}, told an L0 and nothing else. L0 and FVU on "
            f"{options['test_tokens']:,} tokens of {options['split']} text, for seed {', '.join(map(str, seeds))}; "
            f"with the 95% interval over rows of that text; in bold what is more than {CLOSE:.0%} off. Of a "
            "cross-layer transcoder, L0 is of each layer.\n\n"
            f"`{kept['command']}`, commit {kept['commit']}\n\n"
            "| method | " + " | ".join(f"reached of {l0} | off by | FVU" for l0 in wanted) + " |\n| --- |"
            + " --- | --- | --- |" * len(wanted) + "\n")
    for id in sorted({id for run in runs for id in run["found"]}):
        cells = []
        for l0 in wanted:
            rows = [run["found"][id] for run in runs if run["told"] == l0 and id in run["found"]]
            off = max((row["l0"] / l0 - 1 for row in rows), key=abs, default=float("nan"))
            shown = "" if not rows else f"{off:+.1%}" if abs(off) <= CLOSE else f"**{off:+.1%}**"
            fvu = sum(row["fvu"] for row in rows) / max(1, len(rows))
            reached = "; ".join(f"{row['l0']:.2f} ({row['low']:.1f} to {row['high']:.1f})" for row in rows)
            cells += [reached, shown, f"{fvu:.3f}" if rows else ""]
        text += f"| {id} | " + " | ".join(cells) + " |\n"
    return text


def begun(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What is kept of earlier runs with the same settings, to which methods are added, or nothing."""
    asked = {name: value for name, value in vars(options).items() if name not in ("out", "methods", "l0", "seeds")}
    fresh = {"options": asked, "command": f"python benchmarks/{NAME}.py", **machine(), "runs": []}
    kept = json.loads(path.read_text()) if path.exists() else fresh
    return {**fresh, "runs": kept["runs"]} if kept["options"] == asked else fresh


def main(options: argparse.Namespace) -> None:
    net, out = cw.open(options.model), Path(options.out)
    kept = begun(out / f"{NAME}.json", options)
    for l0 in options.l0:
        for seed in options.seeds:
            if not any((run["told"], run["seed"]) == (l0, seed) for run in kept["runs"]):
                kept["runs"].append({"told": l0, "seed": seed, "found": {}})
            place = next(run["found"] for run in kept["runs"] if (run["told"], run["seed"]) == (l0, seed))
            place.update(told(net, l0, seed, options))
            write_json(out / f"{NAME}.json", kept)
            write(out / f"{NAME}.md", partial(Path.write_text, data=table(kept), encoding="utf-8"))
    print(table(kept))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="pico")
    add("--methods", nargs="+", choices=trainable(), default=trainable())
    add("--width", type=int, default=1024)
    add("--l0", type=int, nargs="+", default=[20, 40])
    add("--tokens", type=count_of, default="100k")
    add("--split", default="test", choices=("validation", "test"))
    add("--test-tokens", type=count_of, default="15k")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--out", default=str(RESULTS))
    main(parser.parse_args())
