"""The path of neurons that most influences what a network says, and whether removing it tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..metrics.intervals import interval
from ..report import words
from ..scores.findings.neuron_path import answer_probability, most_active, neuron_path, position_of, scaling, sites_of
from .drawing import bars
from .finding import Asked, Finding, Table

PATH, ACTIVE, RANDOM = "path of influence", "most active neurons", "random neurons"


def found(asked: Asked, *, position: int | None = None, steps: int = 20, draws: int = 20, batch_size: int = 16) -> Finding:
    """The path of neurons with the most joint influence on the right answer, found on half of the rows and checked on the rest.

    position: the token at which neurons are read and changed: the first for images, the last but one for causal models, whose
    answer is the last token. steps: of the path from 0 to 1. draws: of random paths. batch_size: rows at a time.
    """
    net, sites = asked.net, sites_of(asked.net)
    place = position_of(net, position)
    if asked.data.n_rows < 4:
        raise ValueError(f"a path is found on half of the rows and checked on the other, which takes at least 4; "
                         f"{asked.data.name} has {asked.data.n_rows}, so give more tokens.")
    seen, check = Asked(net, asked.data, 2).slices
    path = neuron_path(net, seen, position=place, steps=steps, batch_size=batch_size, progress=asked.progress)
    random = np.random.default_rng(asked.seed)
    sizes = [net.site(site).n or 1 for site in sites]
    some = seen.rows(slice(min(batch_size, seen.n_rows)))
    ways = {PATH: [list(path.units)], ACTIVE: [most_active(net, some, place)],
            RANDOM: [[int(random.integers(size)) for size in sizes] for _ in range(draws)]}
    plain = _probabilities(net, check, batch_size)
    changes = {what: {way: np.mean([_probabilities(net, check, batch_size, units, path.position, path.tokens, factor) - plain
                                    for units in choices], 0) for way, choices in ways.items()}
               for what, factor in (("removed", 0.0), ("doubled", 2.0))}
    figures = {"path": list(path.units), "gains": list(path.gains), "most active": ways[ACTIVE][0], "position": path.position,
               "tokens": path.tokens, "probability": {"mean": float(plain.mean()), "rows": len(plain)},
               "change": {what: {way: _figure(x) for way, x in of.items()} for what, of in changes.items()},
               "more than random": {what: _figure(of[PATH] - of[RANDOM]) for what, of in changes.items()}}
    table = Table(("block", "neuron on the path", "joint influence", "most active neuron"),
                  [(str(i), str(unit), words.number(gain), str(other))
                   for i, (unit, gain, other) in enumerate(zip(path.units, path.gains, ways[ACTIVE][0], strict=True))],
                  f"Found on {seen.n_rows} rows, at token {path.position} of {path.tokens}")
    options = {"position": position, "steps": steps, "draws": draws, "batch_size": batch_size}
    return Finding("neuron-path", tuple(_said(figures, len(plain))), table, figures,
                   {**asked.about, "parts": 2, "options": options}, (7.2, 3.2), draw)


@torch.no_grad()
def _probabilities(net: Any, data: Any, batch_size: int, units: list[int] | None = None, position: int = 0, tokens: int = 1,
                   factor: float = 1.0) -> np.ndarray:
    """The probability of each row's right answer with a path's neurons multiplied by a factor: [rows]."""
    with net.edited(scaling(net, units, position, tokens, factor) if units else []):
        return torch.cat([answer_probability(net, batch.to(net.device)) for batch in data.batches(batch_size)]).cpu().numpy()


def _figure(x: np.ndarray) -> dict[str, Any]:
    low, high = interval(x)
    return {"mean": float(x.mean()), "low": low, "high": high, "rows": len(x)}


def _said(figures: dict[str, Any], rows: int) -> list[str]:
    def at(figure: dict[str, Any]) -> str:
        return f"{words.number(figure['mean'])} [{words.number(figure['low'])}, {words.number(figure['high'])}]"

    removed, more = figures["change"]["removed"], figures["more than random"]["removed"]
    verdict = ("more than random neurons do" if more["high"] < 0 else
               "less than random neurons do" if more["low"] > 0 else "which cannot be told from what random neurons do")
    probability = words.number(figures["probability"]["mean"])
    return [f"The path is {' - '.join(map(str, figures['path']))}, one neuron in each block.",
            f"On the other {rows} rows the right answer has a probability of {probability}. Removing the path changes it by "
            f"{at(removed[PATH])}, {verdict} ({at(removed[RANDOM])}); the most active neurons, by {at(removed[ACTIVE])}."]


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """How the probability of the right answer changes, neurons removed and doubled."""
    for axes, (what, of) in zip(figure.subplots(1, 2, sharey=True), figures["change"].items(), strict=True):
        bars(axes, {way: (row["mean"], row["low"], row["high"]) for way, row in of.items()},
             f"change of probability, {what}")
