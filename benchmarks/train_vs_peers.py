"""Cutaway's training beside that of sae-lens, dictionary-learning and eai-sparsify, in time and memory.

    python benchmarks/train_vs_peers.py

Four sections, each of which can be run alone with `--only`:
steps    full training steps of a TopK autoencoder of several shapes, every library in turn, beside the encoder's product
sweep    ten dictionaries at one site in one pass of `cutaway.learn`, beside ten separate passes
fvu      seconds of training until the held-out FVU on a bundled model's activations falls below each of several values
memory   the largest float32 tensor in one of Cutaway's steps, and the most memory that its process holds

The table of a section replaces that section's earlier one. `--quick` is a trial of everything in about two minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from peers import CACHE, HERE
from train_fvu import fvu_section, fvu_table
from train_steps import memory_section, memory_table, steps_section, steps_table
from train_sweep import sweep_section, sweep_table
from workers import machine

from cutaway.counts import count_of
from cutaway.files import write, write_json

Section = tuple[Callable[[argparse.Namespace], dict[str, Any]], Callable[[dict[str, Any]], str]]
SECTIONS: dict[str, Section] = {
    "steps": (steps_section, steps_table), "sweep": (sweep_section, sweep_table), "fvu": (fvu_section, fvu_table),
    "memory": (memory_section, memory_table)}
SHAPES = ((768, 24_576, 32, 2048), (256, 4096, 32, 4096), (512, 16_384, 32, 2048))
QUICK = {"shapes": ((64, 1024, 16, 512),), "rounds": 1, "steps": 3, "sweep_tokens": 4096, "repeats": 1, "lengths": [8192],
         "seeds": 1, "every": 4, "budget": 10.0, "held_out": 2048, "rates": "own", "out": str(CACHE / "quick")}


def shape(text: str) -> tuple[int, ...]:
    """d,width,k,batch."""
    numbers = tuple(int(word) for word in text.split(","))
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"a shape is d,width,k,batch such as 768,24576,32,2048; found {text!r}.")
    return numbers


def facts_line(facts: dict[str, Any]) -> str:
    """One line of what the figures depend on."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    load = f", load before {facts['load'][0]:.1f}" if facts["load"] else ""
    return (f"`{facts['command']}`. {facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, "
            f"{' '.join(facts['flags'])}{load}. Commit {facts['commit']}, Python {facts['python']}, {versions}.")


def report(results: dict[str, dict[str, Any]]) -> str:
    """Every section that has been run, as Markdown."""
    text = "# Training a TopK autoencoder: Cutaway and three other libraries\n"
    for name, (_, table) in SECTIONS.items():
        if name in results:
            text += f"\n{table(results[name])}\n{facts_line(results[name])}\n"
    return text


def main(options: argparse.Namespace) -> None:
    out = Path(options.out)
    path = out / "train_vs_peers.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    command = f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip()
    for name in [options.only] if options.only else SECTIONS:
        run, table = SECTIONS[name]
        facts = {"command": command, **machine()}
        results[name] = {**facts, **run(options)}
        print(f"\n{table(results[name])}\n{facts_line(results[name])}\n", flush=True)
        write_json(path, results)
        write(out / "train_vs_peers.md", partial(Path.write_text, data=report(results), encoding="utf-8"))


def parser(defaults: dict[str, Any]) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--only", choices=tuple(SECTIONS), help="run one section")
    add("--memory", action="store_const", const="memory", dest="only", help="the same as --only memory")
    add("--quick", action="store_true", help="small shapes and few steps; written beside the cache, not to the results")
    add("--shapes", type=shape, nargs="+", default=SHAPES, help="steps, memory: d,width,k,batch of each")
    add("--rounds", type=int, default=8, help="steps: turns of every library")
    add("--steps", type=int, default=3, help="steps: timed steps in a turn, after one that is not counted")
    add("--model", default="pico", help="sweep, fvu: a folder, a hub id or a bundled model")
    add("--site", default="blocks.2", help="sweep, fvu: where the activations are taken")
    add("--sweep-tokens", type=count_of, default="100k", help="sweep: activations to train each dictionary on")
    add("--repeats", type=int, default=3, help="sweep: times that both ways are timed, in turn")
    add("--lengths", type=count_of, nargs="+", default=[125_000, 250_000, 500_000], help="fvu: planned activations of a run")
    add("--seeds", type=int, default=3, help="fvu: seeds of initialisation and order")
    add("--every", type=int, default=8, help="fvu: steps between two evaluations")
    add("--budget", type=float, default=60.0, help="fvu: most seconds of training of a run")
    add("--held-out", type=count_of, default="10k", help="fvu: validation activations of an evaluation")
    add("--rates", choices=("best", "own"), default="best", help="fvu: each library's best learning rate, or its own")
    add("--out", default=str(HERE / "results"), help="folder for the tables")
    result.set_defaults(**defaults)
    return result


if __name__ == "__main__":
    try:
        main(parser(QUICK if "--quick" in sys.argv[1:] else {}).parse_args())
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"train_vs_peers: {error}")
