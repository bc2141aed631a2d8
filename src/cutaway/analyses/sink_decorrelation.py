"""Attention sinks and massive activations: on which tokens heads rest, and how far their activations stand out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..report import words
from ..scores.findings.sink_decorrelation import Sinks, sink_decorrelation, sinks
from .drawing import lines
from .finding import Asked, Finding, Spread, Table

FIGURES = ("first", "other", "first_ratio", "other_ratio", "cosine")
SHOWN = {"first": "to the first", "other": "to another", "first_ratio": "size, the first"}
MASSIVE = 1_000  # largest over median |activation| from which the literature speaks of massive activations


def found(asked: Asked, *, threshold: float = 0.3, begin: int = 0, batch_size: int = 16) -> Finding:
    """How much attention the first and other tokens receive, how massive their activations are, and the penalty on likeness.

    threshold: the mean attention from some head from which a token counts as a sink. begin: the position of the begin token,
    for the penalty that a training would add. batch_size: rows at a time.
    """
    parts = [sinks(asked.net, part, threshold=threshold, batch_size=batch_size) for part in asked.each(asked.slices)]
    blank = asked.untrained()
    beside = None if blank is None else sinks(blank, asked.slices[0], threshold=threshold, batch_size=batch_size)
    spreads = {name: Spread.of(getattr(part, name).numpy() for part in parts) for name in FIGURES}
    counts, penalty = Spread.of(part.n for part in parts), _penalty(asked, begin, batch_size)
    figures = {"by block": {name: spread.json() for name, spread in spreads.items()}, "sinks a row": counts.json(),
               "threshold": threshold, "penalty": None if penalty is None else penalty.json(),
               "untrained": {} if beside is None else {name: getattr(beside, name).tolist() for name in FIGURES}}
    n = len(parts[0].first)
    table = Table(("block", *SHOWN.values()), [(str(i), *(spreads[name].at(i) for name in SHOWN)) for i in range(n)],
                  "Attention that the first token of a row, and the one other that gets the most, receive from the head that "
                  "gives the most; the first's largest |activation| over the median. Mean over rows, with the 95% interval "
                  "over parts of the data")
    return Finding("sink-decorrelation", tuple(_said(spreads, counts, penalty, beside, threshold)), table, figures,
                   {**asked.about, "options": {"threshold": threshold, "begin": begin, "batch_size": batch_size}}, (9.0, 3.4),
                   draw)


@torch.no_grad()
def _penalty(asked: Asked, begin: int, batch_size: int) -> Spread | None:
    """The penalty of the method on the data; none for a network that it is not defined for."""
    if asked.net.n_blocks < 2 or "logits" not in asked.net.named:
        return None
    return Spread.of(np.mean([float(sink_decorrelation(asked.net, batch.to(asked.net.device), begin=begin)[1])
                              for batch in part.batches(batch_size)]) for part in asked.slices)


def _said(spreads: dict[str, Spread], counts: Spread, penalty: Spread | None, beside: Sinks | None,
          threshold: float) -> list[str]:
    first, other = (int(spreads[name].mean.argmax()) for name in ("first", "other"))
    against = "" if beside is None else (f"; in a network of the same shape without training, "
                                         f"{words.number(float(beside.first.max()))}")
    ratio = max(float(spreads[name].mean.max()) for name in ("first_ratio", "other_ratio"))
    massive = "so some are massive" if ratio >= MASSIVE else f"far from the {MASSIVE:,} from which they are called massive"
    said = [f"In block {first} some head gives the first token {spreads['first'].at(first)} of its attention{against}.",
            f"{counts.at()} other tokens of a row receive more than {threshold:g} from some head; the most that one does is "
            f"{spreads['other'].at(other)}, in block {other}.",
            f"The largest activation is {words.number(ratio)} times the median, {massive}."]
    if penalty is not None:
        said.append(f"The penalty on likeness to the begin token is {penalty.at()}, the mean squared cosine with it.")
    return said


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """Attention and largest activations by block, of the first token and of others."""
    attention, ratio = figure.subplots(1, 2)
    by, blank = figures["by block"], figures["untrained"]
    for axes, names, label in ((attention, ("first", "other"), "most attention from one head"),
                               (ratio, ("first_ratio", "other_ratio"), "largest |activation| over median")):
        series = {"first token": by[names[0]], "other tokens": by[names[1]]}
        lines(axes, {**series, **({"~first token, untrained": blank[names[0]]} if blank else {})}, label, log=axes is ratio)
    attention.axhline(figures["threshold"], color="black", linewidth=0.8, linestyle=":")
