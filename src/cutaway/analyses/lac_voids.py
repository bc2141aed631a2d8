"""Which blocks a token passes without its norm growing, and whether they can be left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..report import words
from ..scores.findings.lac_voids import at_random, lac_voids, loss_with
from .drawing import bars, lines
from .finding import Asked, Finding, Spread, Table

WHOLE, VOIDS, RANDOM = "all blocks", "void blocks left out", "as many left out at random"


def found(asked: Asked, *, alpha: float = 0.8, generate: int = 0, prompt: int | None = None, temperature: float = 0.6,
          draws: int = 3, batch_size: int = 16) -> Finding:
    """Which blocks are void for a token, and what leaving them out costs beside leaving out as many at random.

    alpha: how much of the widest change so far a block must add to be active. generate: also look at so many tokens that the
    network writes after the first `prompt` tokens of each row, at a temperature. draws: of the random blocks. batch_size: rows
    at a time.
    """
    net, random = asked.net, np.random.default_rng(asked.seed)
    read, written, losses = list[Any](), list[Any](), list[dict[str, float]]()
    for i, part in enumerate(asked.each(asked.slices)):
        voids = lac_voids(net, part, alpha=alpha, batch_size=batch_size)
        read.append(voids.prompt.numpy())
        if generate:
            written.append(lac_voids(net, part, alpha=alpha, generate=generate, prompt=prompt, temperature=temperature,
                                     batch_size=batch_size, seed=asked.seed + i).generation.numpy())
        if asked.has_loss:
            losses.append({
                WHOLE: loss_with(net, part, voids.active | True, batch_size),
                VOIDS: loss_with(net, part, voids.active, batch_size),
                RANDOM: float(np.mean([loss_with(net, part, at_random(voids.active, random), batch_size)
                                       for _ in range(draws)]))})
    active = {name: Spread.of(rows) for name, rows in (("text as it is", read), ("text that it wrote", written)) if rows}
    loss = {name: Spread.of(row[name] for row in losses) for name in losses[0]} if losses else {}
    void = Spread.of(len(row) - row.sum() for row in read)
    figures = {"active": {name: spread.json() for name, spread in active.items()}, "void blocks a token": void.json(),
               "loss": {name: spread.json() for name, spread in loss.items()}, "losses by part": losses}
    n = len(read[0])
    table = Table(("block", *active), [(str(i), *(spread.at(i) for spread in active.values())) for i in range(n)],
                  "Share of tokens for which each block is active, with its 95% interval over parts of the data")
    said = [f"Of {n} blocks, {void.at()} are void for a token on average, at alpha {alpha:g}."]
    if losses:
        gain = Spread.of(row[VOIDS] - row[RANDOM] for row in losses)
        said.append(f"Leaving each token's voids out takes the loss from {loss[WHOLE].at()} to {loss[VOIDS].at()} nats; as "
                    f"many blocks at random, to {loss[RANDOM].at()}. {_verdict(gain)}")
    if generate:
        apart = float(np.abs(active["text that it wrote"].mean - active["text as it is"].mean).mean())
        said.append(f"In what it writes itself, the shares differ from those of the text by {words.number(apart)} on average.")
    options = {"alpha": alpha, "generate": generate, "prompt": prompt, "temperature": temperature, "draws": draws,
               "batch_size": batch_size}
    return Finding("lac-voids", tuple(said), table, figures, {**asked.about, "options": options}, (9.0, 3.2), draw)


def _verdict(gain: Spread) -> str:
    if float(gain.high) < 0:
        return "So the norm finds blocks that matter less."
    if float(gain.low) > 0:
        return "So the norm finds blocks that matter more than chance would."
    return "So it cannot be told whether the norm finds blocks that matter less."


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """Shares of active tokens by block, and the losses."""
    if not figures["loss"]:
        lines(figure.subplots(), figures["active"], "share of tokens for which it is active")
        return
    active, loss = figure.subplots(1, 2)
    lines(active, figures["active"], "share of tokens for which it is active")
    bars(loss, {name: (row["mean"], row["low"], row["high"]) for name, row in figures["loss"].items()}, "loss, nats")
