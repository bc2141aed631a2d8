"""Final FVU of fast selection beside that of exact selection, after whole runs on a bundled model's activations.

    python benchmarks/fast_vs_exact.py

Fast selection looks for candidates in a bfloat16 product and scores them in float32; exact selection looks in float32. The two
runs of a pair differ in nothing else: seed, data, order and settings are the same. FVU is on test text that neither saw.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from workers import machine

import cutaway as cw
from cutaway.counts import count_of
from cutaway.dictionaries import AbsTopK, BatchTopK, JumpReLU, Recipe, TopK
from cutaway.files import write, write_json

RESULTS = Path(__file__).parent / "results"
METHODS: dict[str, Callable[[int, int], Recipe]] = {
    "topk": TopK, "abs-topk": AbsTopK, "batch-topk": BatchTopK, "jumprelu": lambda width, k: JumpReLU(width, l0=k)}


def pair(net: cw.Network, recipe: Recipe, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Test FVU by selection."""
    found = {}
    for selection in ("exact", "fast"):
        run = cw.learn(net, cw.stdlib(net), {options.site: recipe}, tokens=options.tokens, seed=seed,
                       settings=cw.Settings(selection), progress=False)
        found[selection] = cw.evaluate(net, run.dictionary, cw.stdlib(net, "test"), tokens=options.test_tokens)["fvu"].value
    return found


def table(rows: dict[str, Any]) -> str:
    """Every method that has been run, the last run of each."""
    text = ("# Fast and exact selection\n\nTest FVU after whole runs, mean over seeds; the ratio by seed.\n\n"
            "| method | model, site, width, L0, tokens | seeds | exact | fast | fast / exact (least to greatest) | commit |\n"
            "| --- | --- | --- | --- | --- | --- | --- |\n")
    for name, row in rows.items():
        exact, fast = ([found[way] for found in row["pairs"]] for way in ("exact", "fast"))
        ratios = [b / a for a, b in zip(exact, fast, strict=True)]
        setting = f"{row['model']}, {row['site']}, {row['width']:,}, {row['k']}, {row['tokens']:,}"
        text += (f"| {name} | {setting} | {len(ratios)} | {mean(exact):.5f} | {mean(fast):.5f} | {mean(ratios):.4f} "
                 f"({min(ratios):.4f} to {max(ratios):.4f}) | {row['commit']} |\n")
    return text


def main(options: argparse.Namespace) -> None:
    net, out = cw.open(options.model), Path(options.out)
    rows = json.loads((out / "fast_vs_exact.json").read_text()) if (out / "fast_vs_exact.json").exists() else {}
    command = f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip()
    for name in options.methods:
        pairs = []
        for seed in range(options.seeds):
            pairs.append(pair(net, METHODS[name](options.width, options.k), seed, options))
            print(name, seed, pairs[-1], flush=True)
        rows[name] = {**vars(options), "command": command, **machine(), "pairs": pairs}
        write_json(out / "fast_vs_exact.json", rows)
        write(out / "fast_vs_exact.md", partial(Path.write_text, data=table(rows), encoding="utf-8"))
    print(table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="pico")
    add("--site", default="blocks.2")
    add("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    add("--width", type=int, default=4096)
    add("--k", type=int, default=32)
    add("--tokens", type=count_of, default="250k")
    add("--test-tokens", type=count_of, default="30k")
    add("--seeds", type=int, default=3)
    add("--out", default=str(RESULTS))
    main(parser.parse_args())
