"""How general the first blocks of a language model are: copied into an untrained one that then learns other text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..metrics import row_loss
from ..metrics.intervals import interval
from ..network import Network, open
from ..report import words
from ..scores.findings.layer_transfer import layer_transfer
from .drawing import COLOURS
from .finding import Asked, Finding, Table

SAID = {"selffer": "own, frozen", "transfer": "copied, frozen", "random": "untrained, frozen", "selffer+": "own, trained on",
        "transfer+": "copied, trained on"}
HELD = 0.2  # share of the rows that nothing is trained on


def found(asked: Asked, *, other: str = "", arms: Sequence[str] = ("transfer", "selffer", "random"), cuts: int = 3,
          steps: int = 30, rate: float = 1e-3, batch_size: int = 8) -> Finding:
    """What text costs a network whose first blocks are this one's, frozen or not, and whose rest learns that text anew.

    other: a model of the same architecture that has learned the data's text; left out, one is trained on it from the start.
    arms: of selffer, transfer, random, selffer+ and transfer+. cuts: after how many of the blocks to cut. steps: of training,
    of batch_size rows each; rate: Adam's.
    """
    net, blank = asked.net, asked.untrained()
    if net.kind != "causal" or blank is None:
        raise ValueError(f"this command trains causal language models, and {net.name} is of kind {net.kind!r}; call "
                         "cutaway.scores.findings.layer_transfer with training and scoring of your own.")
    if steps < 1 or not 1 <= cuts <= net.n_blocks:
        raise ValueError(f"transfer takes a step of training and 1 to {net.n_blocks} cuts; found steps={steps}, cuts={cuts}.")
    learned, held = asked.data.split(HELD, asked.seed)
    layers = [net.named[f"blocks.{i}"].path for i in np.linspace(0, net.n_blocks - 1, cuts).round().astype(int)]
    done, rows = iter(asked.each(range(len(arms) * cuts), "training")), list[np.ndarray]()

    def train(one: Network) -> None:
        next(done, None)
        trained(one, learned, steps, rate, batch_size, asked.seed)

    @torch.no_grad()
    def score(one: Network) -> float:
        rows.append(torch.cat([row_loss(one, batch.to(one.device)) for batch in held.batches(16)]).cpu().numpy())
        return -float(rows[-1].mean())

    if other:
        target = open(other, device=str(net.device))
    else:
        target = blank
        trained(target, learned, steps, rate, batch_size, asked.seed)
    made = layer_transfer(net, target, lambda: _fresh(asked), train, score, layers=layers, arms=arms)
    base, losses = rows[-1], {arm: rows[i * cuts: (i + 1) * cuts] for i, arm in enumerate(made.scores)}
    figures = {"layers": list(made.layers), "base": _figure(base), "by arm": {
        arm: [{**_figure(x), "above base": _figure(x - base)} for x in found] for arm, found in losses.items()}}
    table = Table(("copied up to", *(SAID[arm] for arm in losses)),
                  [(layer, *(words.number(float(found[i].mean())) for found in losses.values()))
                   for i, layer in enumerate(made.layers)],
                  f"Loss in nats a token on {held.n_rows} rows that nothing was trained on")
    options = {"other": other, "arms": tuple(arms), "cuts": cuts, "steps": steps, "rate": rate, "batch_size": batch_size}
    return Finding("layer-transfer", tuple(_said(figures, net.name, bool(other), steps)), table, figures,
                   {**asked.about, "parts": 1, "held rows": held.n_rows, "options": options}, (6.4, 4.0), draw)


def trained(net: Network, data: Any, steps: int, rate: float, batch_size: int, seed: int) -> Network:
    """The same network, trained in place to predict the next token for some steps; frozen weights stay."""
    weights = [p for p in net.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.module.train()
    for step in range(steps):
        rows = np.random.default_rng((seed, step)).permutation(data.n_rows)[:batch_size]
        loss = row_loss(net, data.rows(rows).to(net.device)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    net.module.eval()
    return net


def _fresh(asked: Asked) -> torch.nn.Module:
    blank = asked.untrained()
    assert blank is not None
    return blank.module


def _figure(x: np.ndarray) -> dict[str, Any]:
    low, high = interval(x)
    return {"mean": float(x.mean()), "low": low, "high": high, "rows": len(x)}


def _said(figures: dict[str, Any], name: str, given: bool, steps: int) -> list[str]:
    base = figures["base"]
    how = "the network that was given" if given else f"the same architecture, trained from the start for {steps} steps"
    low, high = words.number(base["low"]), words.number(base["high"])
    said = [f"The text costs {how} {words.number(base['mean'])} [{low}, {high}] nats a token."]
    for arm, cuts in figures["by arm"].items():
        first, last = cuts[0]["above base"], cuts[-1]["above base"]
        own = {"transfer": f"blocks of {name}", "selffer": "its own blocks", "random": "untrained blocks"}
        then = "trained on" if arm.endswith("+") else "frozen"
        said.append(f"With {own[arm.removesuffix('+')]} {then}, against that: {_signed(first)} when the first is copied, "
                    f"{_signed(last)} when all up to {figures['layers'][-1]} are.")
    return said


def _signed(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]".replace("-", "−")


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """The loss by how many blocks were copied, beside training from the start."""
    axes, base = figure.subplots(), figures["base"]
    for i, (arm, cuts) in enumerate(figures["by arm"].items()):
        axes.plot([cut["mean"] for cut in cuts], marker=".", color=COLOURS[i], label=SAID[arm])
    axes.axhline(base["mean"], color="black", linewidth=0.8, linestyle="--", label="nothing copied")
    axes.set(xlabel="copied up to", ylabel="loss, nats a token", xticks=range(len(figures["layers"])))
    axes.set_xticklabels([layer.rpartition(".")[2] for layer in figures["layers"]])
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
