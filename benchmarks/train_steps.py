"""Seconds and memory of full training steps, library by library in turn."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from peers import CACHE, Contender, environment
from peers_worker import SAMPLE
from tqdm.auto import tqdm
from workers import Worker, started

import cutaway as cw
from cutaway.files import write

PLANNED = 10_000    # steps of the training that the timed steps are the beginning of
WARM = 2            # steps before the first turn
SMALL = (64, 1024, 8, 256)
# sae-lens's sparse activations fail in the backward pass while activations are rescaled by the decoder's norms, its default.
SPARSE = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
OURS, PRODUCT = "Cutaway", "x @ W.T, float32"


def entrants(width: int) -> list[Contender]:
    """Who is timed: Adam in float32 for all, and beside it what a user could choose to be faster."""
    law = (width / 2**14) ** -0.5
    return [
        Contender(OURS, "cutaway", cw.TopK(width).rate, {}),
        Contender("eai-sparsify", "eai-sparsify", 2e-4 * law, {"optimizer": "adam"}),
        Contender("eai-sparsify, signum (its default)", "eai-sparsify", 5e-3 * law, {}),
        Contender("dictionary-learning", "dictionary-learning", 2e-4 * law, {}),
        Contender("sae-lens", "sae-lens", 3e-4, {}),
        Contender("sae-lens, sparse activations", "sae-lens", 3e-4, {"sae": SPARSE}),
        Contender("sae-lens, bfloat16 autocast", "sae-lens", 3e-4, {"autocast": True}),
        Contender(PRODUCT, "product", 0.0, {"dtype": "float32"}),
        Contender("x @ W.T, bfloat16", "product", 0.0, {"dtype": "bfloat16"})]


def python_of(library: str) -> Path:
    """Cutaway's own Python, or the peers'."""
    return Path(sys.executable) if library in ("cutaway", "product") else environment()


def job(entrant: Contender, shape: tuple[int, ...]) -> dict[str, Any]:
    d, width, k, batch = shape
    rate = {} if entrant.package == "product" else {"lr": entrant.rate}
    return {"library": entrant.package, "settings": {**entrant.settings, **rate}, "data": str(synthetic(d)), "d": d,
            "width": width, "k": k, "batch": batch, "steps": PLANNED, "seed": 0}


def begin(worker: Worker, entrant: Contender, shape: tuple[int, ...]) -> dict[str, Any]:
    """Build a trainer, after a small one that is thrown away: loading and compiling libraries is not a trainer's memory."""
    worker.ask("build", job=job(entrant, SMALL))
    worker.ask("step", n=WARM)
    return worker.ask("build", job=job(entrant, shape))


def synthetic(d: int) -> Path:
    """A file of activations [SAMPLE, d]: 16 of 4 d directions each, with noise; written once."""
    path = CACHE / "activations" / f"synthetic-{d}.npy"
    if not path.exists():
        chance = np.random.default_rng(0)
        directions = chance.standard_normal((4 * d, d), dtype=np.float32) / d**0.5
        x = chance.standard_normal(d, dtype=np.float32) + 0.05 * chance.standard_normal((SAMPLE, d), dtype=np.float32)
        for _ in range(16):
            x += chance.exponential(size=(SAMPLE, 1)).astype(np.float32) * directions[chance.integers(0, 4 * d, SAMPLE)]

        def fill(part: Path) -> None:
            with open(part, "wb") as file:
                np.save(file, x)
        write(path, fill)
    return path


def timed_shape(shape: tuple[int, ...], rounds: int, steps: int) -> dict[str, Any]:
    """Rows of one shape. In every round each library takes its turn of one step that is not counted and `steps` that are."""
    everyone = entrants(shape[1])
    with started((entrant.name, python_of(entrant.package)) for entrant in everyone) as workers:
        built = {entrant.name: begin(workers[entrant.name], entrant, shape) for entrant in everyone}
        for worker in workers.values():
            worker.ask("step", n=WARM)
        taken: dict[str, list[list[float]]] = {name: [] for name in workers}
        for turn in tqdm(range(rounds), desc=f"steps, d {shape[0]}, width {shape[1]:,}", unit="round"):
            names = list(workers)
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                # What the others left in the processor's caches makes a turn's first step slower.
                taken[name].append(workers[name].ask("step", n=1 + steps)["seconds"][1:])
        memory = {name: worker.ask("memory")["bytes"] for name, worker in workers.items()}
        idle = max(worker.idle_share for worker in workers.values())
    rows = []
    for entrant in everyone:
        seconds = np.concatenate(taken[entrant.name])
        low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        rows.append({"name": entrant.name, "settings": entrant.settings, "n": len(seconds), "median": middle, "quartiles":
                     [low, high], "to_ours": ratio(taken[entrant.name], taken[OURS]), "to_product":
                     ratio(taken[entrant.name], taken[PRODUCT]), "memory": memory[entrant.name],
                     "build": built[entrant.name]["seconds"]})
    return {"shape": dict(zip(("d", "width", "k", "batch"), shape, strict=True)), "rounds": rounds, "idle": idle, "rows": rows,
            "threads": max(answer["threads"] for answer in built.values()),
            "versions": {name: number for answer in built.values() for name, number in answer["versions"].items()}}


def ratio(one: list[list[float]], other: list[list[float]]) -> dict[str, float]:
    """The ratio of the medians over all rounds, and the least and the greatest of any round."""
    each = [median(a) / median(b) for a, b in zip(one, other, strict=True)]
    return {"value": median(sum(one, [])) / median(sum(other, [])), "low": min(each), "high": max(each)}


def steps_section(options: argparse.Namespace) -> dict[str, Any]:
    shapes = [timed_shape(shape, options.rounds, options.steps) for shape in options.shapes]
    return {"shapes": shapes, "versions": shapes[0]["versions"], "threads": shapes[0]["threads"]}


def steps_table(results: dict[str, Any]) -> str:
    text = ("## A training step\n\nForward, loss, backward, Adam, decoder normalisation and the count of dead latents, with "
            "the batch in memory; float32 parameters and activations, no latent dead yet. Milliseconds: median (quartiles). "
            "Ratios: of medians (least and greatest of a round). Memory: the most a process held, less what it held before the "
            "trainer was built.\n")
    for made in results["shapes"]:
        shape, rows = made["shape"], made["rows"]
        text += (f"\nd {shape['d']}, width {shape['width']:,}, k {shape['k']}, batch {shape['batch']:,}; {rows[0]['n']} steps "
                 f"in {made['rounds']} rounds; a waiting process used at most {made['idle']:.1%} of a core:\n\n"
                 "| | ms | times Cutaway's | times the float32 product | memory, MB |\n| --- | --- | --- | --- | --- |\n")
        for row in rows:
            low, high = (1000 * value for value in row["quartiles"])
            memory = "" if row["memory"] is None else f"{row['memory'] / 1e6:,.0f}"
            text += (f"| {row['name']} | {1000 * row['median']:,.1f} ({low:,.1f} to {high:,.1f}) | {shown(row['to_ours'])} | "
                     f"{shown(row['to_product'])} | {memory} |\n")
    return text


def shown(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


# --- memory -----------------------------------------------------------------------------------------------------------

def memory_section(options: argparse.Namespace) -> dict[str, Any]:
    """The largest tensor of one of Cutaway's steps at every shape, each in a new process."""
    rows, built = [], {}
    for shape in options.shapes:
        ours = entrants(shape[1])[0]
        with started([(f"{ours.name} memory", python_of(ours.package))]) as workers:
            worker = next(iter(workers.values()))
            built = begin(worker, ours, shape)
            seen = worker.ask("largest")
        rows.append({"shape": dict(zip(("d", "width", "k", "batch"), shape, strict=True)), **seen})
    return {"rows": rows, "versions": built["versions"], "threads": built["threads"]}


def memory_table(results: dict[str, Any]) -> str:
    text = ("## Memory of one of Cutaway's steps\n\nThe largest float32 tensor that any torch operation gives during a step; "
            "and the most that the process holds in the first steps, whatever takes it, less what it held before the trainer "
            "was built.\n\n| shape | largest float32 tensor | [batch, width] in float32, MB | is one as large? | held, MB | "
            "of it parameters and Adam's moments, MB |\n| --- | --- | --- | --- | --- | --- |\n")
    for row in results["rows"]:
        shape, largest = row["shape"], row["largest"]
        full = shape["batch"] * shape["width"]
        held, found = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.0f}", 4 * largest["elements"] / 1e6
        state = 3 * 4 * (2 * shape["d"] + 1) * shape["width"]
        text += (f"| d {shape['d']}, width {shape['width']:,}, k {shape['k']}, batch {shape['batch']:,} | "
                 f"{largest['shape']} by {largest['operation']}, {found:,.0f} MB | {4 * full / 1e6:,.0f} | "
                 f"{'**yes**' if largest['elements'] >= full else 'no'} | {held} | {state / 1e6:,.0f} |\n")
    return text
