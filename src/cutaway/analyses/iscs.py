"""The order of channels from parameters alone, and whether it tells which can be left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..kinds import is_map
from ..metrics import measure
from ..network import Edit, Network, zero
from ..network.families import outputs_of
from ..scores.findings.iscs import Channels, iscs
from .drawing import bars
from .finding import Asked, Finding, Spread, Table

WHOLE, LAST, RANDOM, FIRST = "all channels", "last half left out", "a random half left out", "first half left out"


def found(asked: Asked, *, producer: str = "", consumer: str = "", core: float = 0.25, draws: int = 3) -> Finding:
    """The order of a latent's channels from the weights on both of its sides, and the loss without its last or first half.

    producer, consumer: paths of the maps before and after the latent; left out, those of the neurons of every block's MLP.
    core: the share of channels that are called salient. draws: of the random halves.
    """
    net = asked.net
    if bool(producer) != bool(consumer):
        raise ValueError("a latent lies between two maps; give both producer= and consumer=, or neither.")
    pairs = [(producer, consumer)] if producer else pairs_of(net)
    orders = {made: iscs(net, made, read, core=core) for made, read in pairs}
    losses = [_losses(asked, part, orders, draws) for part in asked.each(asked.slices)] if asked.has_loss else []
    loss = {name: Spread.of(row[name] for row in losses) for name in losses[0]} if losses else {}
    figures = {"latents": {f"{made} to {read}": _plain(orders[made]) for made, read in pairs},
               "loss": {name: spread.json() for name, spread in loss.items()}, "losses by part": losses}
    rows = [(made, f"{len(o.scores):,}", *(" ".join(map(str, part.tolist())) for part in (o.order[:5], o.order[-5:])))
            for made, o in orders.items()]
    table = Table(("channels of", "n", "first five", "last five"), rows,
                  "Channels by the variance of their weights and the size of their biases")
    options = {"producer": producer, "consumer": consumer, "core": core, "draws": draws}
    return Finding("iscs", tuple(_said(orders, loss, losses)), table, figures, {**asked.about, "options": options}, (6.4, 2.6),
                   draw)


def pairs_of(net: Network) -> list[tuple[str, str]]:
    """For each block the map that makes the neurons of its MLP, the last before the one that reads them, and that one."""
    pairs, maps = [], [(path, module) for path, module in net.module.named_modules() if is_map(module)]
    for i in range(net.n_blocks):
        site = net.named.get(f"blocks.{i}.mlp.neurons")
        if site is None:
            continue
        before = maps[: next(k for k, (path, _) in enumerate(maps) if path == site.path)]
        makers = [path for path, module in before if outputs_of(module) == site.n]
        if makers:
            pairs.append((makers[-1], site.path))
    if not pairs:
        raise ValueError(f"{net.name} has no MLP whose neurons lie between two maps that Cutaway knows by name; give producer= "
                         "and consumer=, two module paths.")
    return pairs


@torch.no_grad()
def _losses(asked: Asked, part: Any, orders: dict[str, Channels], draws: int) -> dict[str, float]:
    """The loss with halves of every latent's channels left out."""
    random = np.random.default_rng(asked.seed)

    def loss(closed: Iterable[tuple[str, Any]]) -> float:
        edits = []
        for path, channels in closed:
            gate = torch.ones(len(orders[path].scores))
            gate[channels] = 0
            edits.append(Edit(f"{path}:out", zero, gate, "u"))
        with asked.net.edited(edits):
            return measure(asked.net, part, "loss")["loss"].value

    half = {path: len(o.order) // 2 for path, o in orders.items()}
    drawn = [loss([(path, random.permutation(len(o.order))[:half[path]]) for path, o in orders.items()]) for _ in range(draws)]
    return {WHOLE: loss([]), LAST: loss([(path, o.order[-half[path]:]) for path, o in orders.items()]),
            RANDOM: float(np.mean(drawn)), FIRST: loss([(path, o.order[:half[path]]) for path, o in orders.items()])}


def _plain(channels: Channels) -> dict[str, Any]:
    return {name: getattr(channels, name).tolist() for name in ("scores", "spread", "bias", "order", "core", "group")}


def _said(orders: dict[str, Channels], loss: dict[str, Spread], losses: list[dict[str, float]]) -> list[str]:
    n, biased = sum(len(o.scores) for o in orders.values()), any(bool(o.bias.any()) for o in orders.values())
    without = "" if biased else "; none has a bias, so that the variances alone order them"
    said = [f"{n:,} channels of {len(orders)} latents are ordered by their parameters alone{without}."]
    if loss:
        gain = Spread.of(row[LAST] - row[RANDOM] for row in losses)
        verdict = ("The order finds channels that matter less." if float(gain.high) < 0 else
                   "The order puts last what matters more than chance would." if float(gain.low) > 0 else
                   "It cannot be told whether the order is better than chance.")
        said.append(f"The loss is {loss[WHOLE].at()} nats; without the last half of each latent's channels {loss[LAST].at()}, "
                    f"without a random half {loss[RANDOM].at()}, without the first half {loss[FIRST].at()}. {verdict}")
    return said


def draw(figure: Any, figures: dict[str, Any]) -> None:
    """The losses with halves left out; where there is no loss, the scores of the first latent in their order."""
    axes = figure.subplots()
    if figures["loss"]:
        bars(axes, {name: (row["mean"], row["low"], row["high"]) for name, row in figures["loss"].items()}, "loss, nats")
        return
    name, first = next(iter(figures["latents"].items()))
    axes.plot(sorted(first["scores"], reverse=True), marker=".", color="#20639b")
    axes.set(xlabel=f"channels of {name}, in their order", ylabel="score")
    axes.grid(alpha=0.25)
