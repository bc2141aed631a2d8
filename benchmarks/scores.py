"""What scores cost: all columns from one pass, exact effects from kept streams, and memory for wide layers."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

import cutaway as cw
from cutaway.catalogue import methods
from cutaway.files import write_json
from cutaway.network import zero
from cutaway.scores.running import defined
from cutaway.scores.sweep import Shared

RESULTS = Path(__file__).parent / "results"
WIDE = (10_000, 100_000)  # neurons a layer
WIDE_D, WIDE_LAYERS, WIDE_ROWS, WIDE_BATCH = 64, 2, 64, 16


def seconds(act: Callable[[], Any]) -> float:
    """Of the processor, which other work on the machine disturbs less than the clock."""
    begun = time.process_time()
    act()
    return time.process_time() - begun


def in_turn(acts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each act, one after the other, after one turn that is not counted."""
    for act in acts.values():
        act()
    turns = [{name: seconds(act) for name, act in acts.items()} for _ in range(repeats)]
    return {name: [turn[name] for turn in turns] for name in acts}


def said(part: list[float], whole: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(part, whole, strict=True)]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios), "n": len(ratios)}


# --- one pass ---------------------------------------------------------------------------------------------------------

def shared_scores(table: cw.Units) -> list[str]:
    """The scores of a table that come from one and the same pass, or read parameters alone."""
    found = {name: m.object for name, m in methods("score").items() if name in defined(table)}
    return [name for name, score in found.items() if isinstance(score, Shared) and "within" not in score.how] + ["magnitude"]


def one_pass(net: cw.Network, tokens: int, repeats: int) -> dict[str, Any]:
    """All shared columns of heads and of neurons, beside a forward and a backward pass as in training."""
    data = cw.stdlib(net).take(tokens)
    tables = {kind: cw.units(net, kind) for kind in ("heads", "neurons")}
    names = {kind: shared_scores(table) for kind, table in tables.items()}

    def plain() -> None:
        for batch in data.batches(16):
            cw.row_loss(net, batch).sum().backward()
        net.module.zero_grad(set_to_none=True)

    acts: dict[str, Callable[[], Any]] = {"forward and backward": plain}
    acts |= {kind: lambda kind=kind: tables[kind].score(names[kind], data) for kind in tables}  # type: ignore[misc]
    took = in_turn(acts, repeats)
    both = [sum(times) for times in zip(took["heads"], took["neurons"], strict=True)]
    return {"model": net.name, "tokens": data.n_tokens, "scores": names, "seconds": took,
            "ratio": said(both, took["forward and backward"])}


# --- exact ------------------------------------------------------------------------------------------------------------

def alone(table: cw.Units, data: Any, own_plain: bool) -> np.ndarray:
    """The effect of each unit by whole passes, one unit at a time; own_plain: with a plain pass for each unit too."""
    total, rows = np.zeros(len(table)), 0
    with torch.no_grad():
        for batch in data.batches(16):
            plain, rows = cw.row_loss(table.net, batch), rows + len(batch.rows)
            for i, (site, unit) in enumerate(zip(table.frame["site"], table.frame["unit"], strict=True)):
                if own_plain:
                    plain = cw.row_loss(table.net, batch)
                gate = torch.ones(table.sizes[site]).index_fill(0, torch.tensor(unit), 0.0)
                with table.net.edited(cw.Edit(site, zero, gate, "u")):
                    total[i] += float((cw.row_loss(table.net, batch) - plain).double().sum())
    return total / rows


def exact(net: cw.Network, tokens: int, repeats: int) -> dict[str, Any]:
    """Exact effects of all heads, beside closing each alone."""
    data, table, made = cw.stdlib(net, "validation").take(tokens), cw.units(net, "heads"), {}
    acts: dict[str, Callable[[], Any]] = {
        "exact": lambda: made.update(ours=table.score("exact", data).column("exact")),
        "each alone": lambda: made.update(theirs=alone(table, data, own_plain=True)),
        "each alone, one plain pass for all": lambda: alone(table, data, own_plain=False)}
    took = in_turn(acts, repeats)
    return {"model": net.name, "heads": len(table), "tokens": data.n_tokens, "rows": data.n_rows, "seconds": took,
            "largest difference": float(np.abs(made["ours"] - made["theirs"]).max()),
            "largest effect": float(np.abs(made["theirs"]).max()),
            "ratio": {name: said(took["exact"], times) for name, times in took.items() if name != "exact"}}


# --- memory -----------------------------------------------------------------------------------------------------------

def wide(width: int) -> tuple[cw.Network, Any, list[str]]:
    """A random network of so many neurons a layer, data, and the names of the sites of its neurons."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(WIDE_LAYERS):
        layers += [nn.Linear(WIDE_D, width), nn.GELU(), nn.Linear(width, WIDE_D)]
    net = cw.open(nn.Sequential(*layers))
    data = cw.arrays(torch.randn(WIDE_ROWS, WIDE_D), torch.arange(WIDE_ROWS) % WIDE_D)
    return net, data, [f"{3 * i + 2}:in" for i in range(WIDE_LAYERS)]


def cross_entropy(net: cw.Network, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(net.logits(batch), batch.labels, reduction="none")


def most_memory() -> float:
    """The most memory that this process held since it began, in MB; `getrusage` would count what began it as well."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def memory_of(width: int, scored: bool) -> dict[str, Any]:
    """The most memory that this process ever held, in MB: a pass forward and backward, then all scores, if asked."""
    net, data, sites = wide(width)
    for batch in data.batches(WIDE_BATCH):
        cross_entropy(net, batch).sum().backward()
    net.module.zero_grad(set_to_none=True)
    names: list[str] = []
    if scored:
        table = cw.units(net, "neurons", sites=sites)
        names = [name for name in shared_scores(table) if name not in ("sparsegpt", "gptq")]
        found = table.score(names, data, batch_size=WIDE_BATCH, metric=cross_entropy)
        found.pick(np.arange(0, len(table), len(table) // 16)).score("exact", data, batch_size=WIDE_BATCH, metric=cross_entropy)
    return {"MB": most_memory(), "weights MB": sum(p.numel() * 4 for p in net.module.parameters()) / 2**20, "scores": names}


def memory() -> dict[str, Any]:
    """A process for each width, with and without scores, so that each has its own greatest."""
    found: dict[str, Any] = {}
    for width in WIDE:
        for name, scored in (("pass", False), ("scores", True)):
            asked = [sys.executable, __file__, "--memory-of", str(width), *(["--scored"] if scored else [])]
            found.setdefault(str(width), {})[name] = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
    return found


# --- the table --------------------------------------------------------------------------------------------------------

def table(found: dict[str, Any]) -> str:
    made = {"one_pass": one_pass_table, "exact": exact_table, "memory": memory_table}
    head = ("# What scores cost\n\n`python benchmarks/scores.py`. Seconds of the processor, one thread; ratios are medians "
            "over turns, with the least and the most.\n")
    return head + "".join(write(found[name]) for name, write in made.items() if name in found)


def one_pass_table(found: dict[str, Any]) -> str:
    r, names = found["ratio"], {kind: ", ".join(scores) for kind, scores in found["scores"].items()}
    rows = "".join(f"| {name} | {median(times):.2f} |\n" for name, times in found["seconds"].items())
    return (f"\n## One pass\n\nAll shared columns of {found['model']}'s heads ({names['heads']}) and neurons "
            f"({names['neurons']}) on {found['tokens']:,} tokens cost **{r['median']:.2f}** ({r['least']:.2f} to "
            f"{r['most']:.2f}, n = {r['n']}) of a plain forward and backward pass over the same text.\n\n"
            f"| | s |\n|---|---|\n{rows}")


def exact_table(found: dict[str, Any]) -> str:
    rows = "".join(f"| {name} | {r['median']:.2f} | {r['least']:.2f} | {r['most']:.2f} | {r['n']} |\n"
                   for name, r in found["ratio"].items())
    return (f"\n## Exact effects\n\nAll {found['heads']} heads of {found['model']} on {found['tokens']:,} tokens "
            f"({found['rows']} rows).\n\n| against | ratio | least | most | n |\n|---|---|---|---|---|\n{rows}\n"
            f"The largest effect is {found['largest effect']:.3g}, and the two ways differ by at most "
            f"{found['largest difference']:.1e}. *Each alone* takes a plain pass and a pass with the head closed for each "
            "head; the stricter row takes one plain pass for all.\n")


def memory_table(found: dict[str, Any]) -> str:
    rows = "".join(f"| {int(width):,} | {row['pass']['weights MB']:.0f} | {row['pass']['MB']:.0f} | "
                   f"{row['scores']['MB']:.0f} |\n" for width, row in found.items())
    return (f"\n## Memory\n\nA random network of {WIDE_LAYERS} layers of so many neurons, {WIDE_BATCH} rows a batch: the most "
            "memory of a process that opens it and runs forward and backward, and of one that then takes all columns and the "
            "exact effect of 16 neurons.\n\n| neurons a layer | weights, MB | forward and backward, MB | and all scores, MB |\n"
            f"|---|---|---|---|\n{rows}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=("one_pass", "exact", "memory"), default=("one_pass", "exact", "memory"))
    parser.add_argument("--model", default="pico")
    parser.add_argument("--tokens", type=int, default=4_096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "scores.json")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scored", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, options.scored)))
        return
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    net = cw.open(options.model)
    if "one_pass" in options.only:
        found["one_pass"] = one_pass(net, options.tokens, options.repeats)
    if "exact" in options.only:
        found["exact"] = exact(net, options.tokens // 4, options.repeats)
    if "memory" in options.only:
        found["memory"] = memory()
    found["versions"] = {"torch": torch.__version__, "cutaway": cw.__version__}
    write_json(options.out, found)
    text = table(found)
    options.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
