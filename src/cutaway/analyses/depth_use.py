"""What each block adds, and what rests on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..report import words
from ..scores.findings.depth_use import DepthUse, depth_use
from .drawing import lines, square
from .finding import Asked, Finding, Spread, Table

ADDS, LATER, OUTPUT = "adds, over the stream", "effect on later blocks", "effect on the output"
FUTURE, DIRECT, ERASED = "at future tokens", "read directly by later blocks", "earlier states erased, effect on the output"
TOP = "lens, share of the five likeliest"
SHOWN = {"adds": ADDS, "moves later": f"{LATER} {FUTURE}", "moves output": OUTPUT}


def by_block(use: DepthUse) -> dict[str, np.ndarray]:
    """The figures of each block [blocks]; nan where there is none, as for what later blocks take from the last one."""
    def later(table: Any) -> np.ndarray:
        return np.append(table[:-1].nanmean(1).numpy(), np.nan)

    parts = {ADDS: "block", "attention adds": "attn", "MLP adds": "mlp"}
    found = {name: use.contribution[part].numpy() for name, part in parts.items() if part in use.contribution}
    found |= {"cosine with the stream": use.cosine["block"].numpy(), LATER: later(use.whole.later),
              f"{LATER} {FUTURE}": later(use.future.later), DIRECT: later(use.direct), OUTPUT: use.whole.output.numpy(),
              f"{OUTPUT} {FUTURE}": use.future.output.numpy(), ERASED: use.erased.numpy()}
    if use.lens is not None:
        found |= {"lens, nats": use.lens.kl.numpy(), TOP: use.lens.top.numpy()}
    return found


def found(asked: Asked, *, cuts: int = 4, batch_size: int = 8) -> Finding:
    """What each block adds to the residual stream, and what later blocks and the output lose without it.

    cuts: at how many places each row is cut for effects on future tokens. batch_size: rows at a time.
    """
    uses = [depth_use(asked.net, part, cuts=cuts, batch_size=batch_size, seed=asked.seed + i)
            for i, part in enumerate(asked.each(asked.slices))]
    blank = asked.untrained()
    beside = None if blank is None else depth_use(blank, asked.slices[0], cuts=cuts, batch_size=batch_size, seed=asked.seed)
    rows = [by_block(use) for use in uses]
    spreads = {name: Spread.of(row[name] for row in rows) for name in rows[0]}
    depth = Spread.of(use.depth for use in uses)
    n = len(rows[0][ADDS])
    figures = {
        "by block": {name: spread.json() for name, spread in spreads.items()},
        "effect of each block on each later one": np.mean([use.future.later.numpy() for use in uses], 0).tolist(),
        "the same at all tokens": np.mean([use.whole.later.numpy() for use in uses], 0).tolist(),
        "the same, read directly": np.mean([use.direct.numpy() for use in uses], 0).tolist(),
        "greatest effect on each later block": np.max([use.whole.later_max.numpy() for use in uses], 0).tolist(),
        "depth": depth.json(), "n": sum(use.n for use in uses),
        "untrained": {} if beside is None else {"by block": {name: x.tolist() for name, x in by_block(beside).items()},
                                                "depth": beside.depth, "n": beside.n}}
    shown = {short: spreads[name] for short, name in SHOWN.items() if name in spreads and np.isfinite(spreads[name].mean).any()}
    table = Table(("block", *shown), [(str(i), *(spread.at(i) for spread in shown.values())) for i in range(n)],
                  "What each block adds, over the stream that it adds to; how far later blocks at future tokens, and the "
                  "output, move without it. Mean over tokens, with the 95% interval over parts of the data")
    return Finding("depth-use", tuple(_said(rows, spreads, depth, beside, n)), table, figures,
                   {**asked.about, "options": {"cuts": cuts, "batch_size": batch_size}}, (10.5, 3.6), draw)


def _said(rows: list[dict[str, np.ndarray]], spreads: dict[str, Spread], depth: Spread, beside: DepthUse | None,
          n: int) -> list[str]:
    def halves(name: str) -> list[str]:
        return [Spread.of(np.nanmedian(row[name][part]) for row in rows).at() for part in (slice(n // 2), slice(n // 2, None))]

    said = []
    first, second = halves(ADDS)
    said.append(f"The median block of the first half adds {first} of the stream that it adds to, that of the second {second}.")
    first, second = halves(f"{LATER} {FUTURE}")
    said.append(f"Leaving the median block of the first half out at earlier tokens moves what later blocks add at future ones "
                f"by {first} of it, that of the second by {second}.")
    against = "" if beside is None else f"; a network of the same shape without training has {words.number(beside.depth)}"
    said.append(f"Weighted by that, the mean block is {depth.at()}, of blocks 0 to {n - 2}{against}.")
    if TOP in spreads:
        enough = next(i for i in range(n) if spreads[TOP].mean[i] >= 0.5 or i == n - 2)
        first = "" if enough == n - 2 else ", for the first time half or more"
        said.append(f"Read out after block {enough}, {spreads[TOP].at(enough)} of the five likeliest outputs are those of the "
                    f"end{first}.")
    return said


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """What blocks add, what the output rests on, and which later block each one acts on."""
    adds, output, later = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    by, blank = figures["by block"], figures["untrained"].get("by block", {})
    series = {"block": by[ADDS], **{part: by[f"{part} adds"] for part in ("attention", "MLP") if f"{part} adds" in by}}
    lines(adds, {**series, **({"~untrained": blank[ADDS]} if blank else {})}, "size over the stream's", log=True)
    said = {"left out": OUTPUT, "left out at earlier tokens": f"{OUTPUT} {FUTURE}",
            "state erased at earlier tokens": ERASED}
    if np.isfinite(np.asarray(by[OUTPUT]["mean"], float)).all():
        lines(output, {name: by[key] for name, key in said.items()}, "distance of the probabilities")
    else:
        lines(output, {LATER: by[LATER], DIRECT: by[DIRECT]}, "share of what later blocks add")
    square(later, figures["effect of each block on each later one"], "block left out", "later block",
           "share of what it adds, future tokens")
