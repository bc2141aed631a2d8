"""Final FVU of fast selection beside that of exact selection, after whole runs on a bundled model's activations.

    python benchmarks/fast_vs_exact.py

Fast selection looks for candidates in a bfloat16 product and scores them in float32; exact selection looks in float32. The two
runs of a pair differ in nothing else: seed, data, order and settings are the same. FVU is on test text that neither saw.
"""

from __future__ import annotations

import argparse
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


def table(results: dict[str, Any]) -> str:
    text = (f"# Fast and exact selection\n\n{results['model']}, {results['site']}, width {results['width']:,}, k or L0 "
            f"{results['k']}, {results['tokens']:,} tokens; FVU on {results['test_tokens']:,} test tokens, mean of "
            f"{results['seeds']} seeds; the ratio by seed.\n\n| method | exact | fast | fast / exact (least to greatest) |\n"
            "| --- | --- | --- | --- |\n")
    for name, pairs in results["rows"].items():
        exact, fast = ([found[way] for found in pairs] for way in ("exact", "fast"))
        ratios = [b / a for a, b in zip(exact, fast, strict=True)]
        spread = f"{mean(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})"
        text += f"| {name} | {mean(exact):.5f} | {mean(fast):.5f} | {spread} |\n"
    return text + f"\n`{results['command']}`, {results['processor']}, commit {results['commit']}.\n"


def main(options: argparse.Namespace) -> None:
    net = cw.open(options.model)
    results = {**vars(options), "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
               **machine(), "rows": {}}
    for name in options.methods:
        pairs = results["rows"].setdefault(name, [])
        for seed in range(options.seeds):
            pairs.append(pair(net, METHODS[name](options.width, options.k), seed, options))
            print(name, seed, pairs[-1], flush=True)
    text = table(results)
    print(text)
    write_json(Path(options.out) / "fast_vs_exact.json", results)
    write(Path(options.out) / "fast_vs_exact.md", partial(Path.write_text, data=text, encoding="utf-8"))


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
