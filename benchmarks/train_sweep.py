"""Ten dictionaries at one site in one pass, beside ten separate passes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tqdm.auto import tqdm
from workers import started

RECIPES = [(512, 8), (1024, 8), (1024, 16), (1536, 16), (2048, 16), (2048, 32), (2560, 32), (3072, 32), (4096, 32), (4096, 64)]
WAYS = {"one pass": True, "ten passes": False}


def sweep_section(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both ways in turn, in one process, after a short trial of each."""
    asked = {"model": options.model, "site": options.site, "recipes": RECIPES}
    with started([("Cutaway sweep", Path(sys.executable))]) as workers:
        worker = workers["Cutaway sweep"]
        for together in WAYS.values():
            answer = worker.ask("learn", **asked, tokens=2048, together=together)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        fvu: dict[str, list[float]] = {}
        for _ in tqdm(range(options.repeats), desc="sweep", unit="repeat"):
            for way, together in WAYS.items():
                answer = worker.ask("learn", **asked, tokens=options.sweep_tokens, together=together)
                seconds[way].append(answer["seconds"])
                fvu[way] = answer["fvu"]
    differ = max(abs(a - b) for a, b in zip(*fvu.values(), strict=True))
    return {**asked, "tokens": options.sweep_tokens, "seconds": seconds, "fvu": fvu, "differ": differ,
            "threads": answer["threads"], "versions": answer["versions"]}


def sweep_table(results: dict[str, Any]) -> str:
    seconds = results["seconds"]
    each = [one / ten for one, ten in zip(*seconds.values(), strict=True)]
    text = (f"## Ten dictionaries in one pass\n\n{results['model']}, {results['site']}: {results['tokens']:,} tokens; "
            f"(width, k) {', '.join(f'({width}, {k})' for width, k in results['recipes'])}. Seconds of `cutaway.learn`, the "
            f"network's passes included: median (least to greatest) of {len(each)} in turn.\n\n| | s |\n| --- | --- |\n")
    for way, values in seconds.items():
        text += f"| {way} | {median(values):.1f} ({min(values):.1f} to {max(values):.1f}) |\n"
    return text + (f"\nOne pass costs {median(each):.2f} ({min(each):.2f} to {max(each):.2f}) of ten passes. The FVU of the "
                   f"last recorded step differs by at most {results['differ']:.1e} between the two ways.\n")
