"""The knee of one-shot magnitude pruning: pico as it is, and a vision transformer that is trained on after pruning."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..data import arrays
from ..data.corpora import stdlib
from ..network import Network, open
from ..scores.findings.essential_sparsity import Sparsity, essential_sparsity
from .digit_nets import accuracy, fitted, vit
from .proof import Comparison, Proof, compare, say
from .sae_vision_eval import digits
from .scores import slices

SEEDS = (0, 1, 2)
GRID = tuple(i / 8 for i in range(1, 8))         # the sparsities that N:8 can have, for all ways alike
TRAINED = (0.5, 0.75, 0.875)                     # those of them after which a network is trained on
TOKENS = 1_530                                   # of text a seed
EARLIER, TESTED, HELD = 5, 0.3, 269              # digits 0 to 4 come before the others; share, and number, of test images
PRETRAINED, TUNED, RATE = 40, 30, 3e-3           # epochs, and learning rate
EPSILON = 0.01
LEARNED = 0.9                                    # accuracy of the dense network from which its pruning says something


def on_text(net: Network, text: Any, seed: int) -> dict[str, Sparsity]:
    """The curves of a network without any training after pruning."""
    return {how: essential_sparsity(net, text, how=how, grid=GRID, epsilon=EPSILON, seed=seed)
            for how in ("global", "n:8", "random")}


def on_digits(x: Tensor, y: Tensor, seed: int) -> tuple[dict[str, Sparsity], float]:
    """The curves of a transformer that learned digits 0 to 4, is pruned, and then learns 5 to 9; and its first accuracy."""
    random = np.random.default_rng(seed)
    order = torch.from_numpy(random.permutation(len(y)))
    train, test = order[int(TESTED * len(y)):], order[: int(TESTED * len(y))]
    early, late = train[y[train] < EARLIER], train[y[train] >= EARLIER]
    held, known = test[y[test] >= EARLIER], test[y[test] < EARLIER]
    net = fitted(vit(EARLIER, seed), x[early], y[early], PRETRAINED, RATE, seed)

    def tune(sparse: Network) -> None:
        fitted(sparse, x[late], y[late] - EARLIER, TUNED, RATE, seed)

    def pruned(how: str, dense: float | None) -> Sparsity:
        return essential_sparsity(net, arrays(x[held], y[held] - EARLIER), how=how, metric="accuracy", grid=TRAINED,
                                  epsilon=EPSILON, tune=tune, dense=dense, seed=seed)

    smallest = pruned("global", None)
    return {"global": smallest, "random": pruned("random", smallest.dense)}, accuracy(net, x[known], y[known])


@proof("essential-sparsity")
def knee() -> Proof:
    """Beyond a knee the loss climbs sharply, for the smallest weights of all and in groups of eight."""
    net, (x, labels) = open("pico"), digits()
    found = []
    for seed, text in zip(SEEDS, slices(stdlib(net, "test"), TOKENS, len(SEEDS)), strict=True):
        images, before = on_digits(x, torch.from_numpy(labels).long(), seed)
        found.append({"text": on_text(net, text, seed), "digits": images, "before": before})
        say(f"seed {seed}, digits 0 to 4 {before:.3f}; " + "; ".join(
            f"{what}, {how}: dense {curve.dense:.3f}, essential {curve.essential:.2f}, "
            + " ".join(f"{value:.3f}" for value in curve.values)
            for what in ("text", "digits") for how, curve in found[-1][what].items()))  # type: ignore[attr-defined]
    return concluded(found, net)


def concluded(found: list[dict[str, Any]], net: Network) -> Proof:
    """The proof from each seed's curves."""
    def curves(what: str, how: str) -> list[Sparsity]:
        return [row[what][how] for row in found]

    def sharper(what: str, how: str, unit: str) -> Comparison:
        slopes = [curve.slopes() for curve in curves(what, how)]
        return compare("beyond the knee", "up to the knee", f"{unit} for each unit of sparsity, {how}, {what}",
                       [after for _, after in slopes], [before for before, _ in slopes], "higher")

    def later(what: str, how: str = "global") -> Comparison:
        return compare(f"smallest weights, {how}", "random weights", f"essential sparsity, {what}",
                       [curve.essential for curve in curves(what, how)],
                       [curve.essential for curve in curves(what, "random")], "higher")

    table = [{what: {how: {"sparsity": curve.sparsity, "values": curve.values, "dense": curve.dense,
                           "essential": curve.essential} for how, curve in row[what].items()} for what in ("text", "digits")}
             for row in found]
    shares = {(what, how): float(np.mean([c.essential for c in curves(what, how)]))
              for what, how in (("text", "global"), ("text", "n:8"), ("digits", "global"), ("digits", "random"))}
    dense = [curve.dense for curve in curves("digits", "global")]
    return Proof(
        "essential-sparsity", "One-shot magnitude pruning of a small trained transformer shows a knee sparsity beyond which "
        "loss climbs sharply, also under N:M sparsity.",
        comparisons=(sharper("text", "global", "loss"), sharper("text", "n:8", "loss"), later("text"),
                     sharper("digits", "global", "accuracy lost"), later("digits")),
        checks={f"the dense transformer tells {LEARNED:.0%} of the digits 5 to 9, for every seed": min(dense) >= LEARNED,
                "there is a knee above zero for every seed, on text and on digits":
                all(curve.essential > 0 for what in ("text", "digits") for curve in curves(what, "global"))},
        beside=(later("text", "n:8"),),
        figures={"by seed": table, "accuracy on digits 0 to 4 before": [row["before"] for row in found]},
        n={"tokens of each seed": TOKENS, "sparsities on text": len(GRID), "sparsities on digits": len(TRAINED),
           "test images of digits 5 to 9, about": HELD},
        seeds=SEEDS,
        notes=(f"On text: {net.name} as it is, a loss up to {EPSILON:.0%} above the dense one is as good; a seed is its own "
               "text and its own random weights. On digits: a vision transformer of four blocks that learned digits 0 to 4 "
               "is pruned at once, its masks are fixed and it is trained on digits 5 to 9, as in the paper; accuracy up to "
               f"{EPSILON:.0%} below that of the dense network trained alike is as good; a seed is its own split and network.",
               f"Essential sparsity on average: text {shares['text', 'global']:.0%} (N:8 {shares['text', 'n:8']:.0%}), digits "
               f"{shares['digits', 'global']:.0%} (random weights {shares['digits', 'random']:.0%}), of the linear maps inside "
               "the blocks. That it becomes worse faster beyond the knee than before follows in part from what a knee is; "
               "random weights, which have none or an earlier one, are the baseline that does not. A curve that is still as "
               f"good at the last sparsity, {GRID[-1]:.0%}, has its knee beyond the grid, and counts as no steeper there.",
               "Smaller than the paper: networks of 5.5M and 35 thousand weights; N:8 on text alone; no iterative pruning "
               "beside.")
    ).unless(
        f"Nothing can be concluded on digits: the dense transformer ends at an accuracy of {min(dense):.2f} to "
        f"{max(dense):.2f}, and a network that has not learned its task does not say what pruning costs it."
        if min(dense) < LEARNED else
        f"Likely why: on text all of it is seen; on digits the dense transformer ends at {min(dense):.3f} to {max(dense):.3f} "
        f"on about {HELD} test images, so that the line of {EPSILON:.0%} below it is two or three images, and a digit of 8 by "
        "8 pixels asks for so few weights that training after pruning makes up for nearly all that are left out.")
