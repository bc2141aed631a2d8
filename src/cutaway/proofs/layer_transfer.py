"""How general the first layers of a CNN are, between two halves of the digits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..network import Network, open
from ..scores.findings.layer_transfer import ARMS, Transfer, layer_transfer
from .digit_nets import accuracy, cnn, fitted
from .proof import Comparison, Proof, compare, say
from .sae_vision_eval import digits

SEEDS = (0, 1, 2, 3)
FEW, TESTED = 100, 0.4                  # images of the target task that are trained on; share of all for testing
SOURCE, TARGET, RATE = 15, 60, 3e-3     # epochs on the source and on the target task, learning rate


def task(classes: np.ndarray, x: Tensor, labels: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images of some rows whose digit is one of the classes, and the number of the class."""
    mine = rows[np.isin(labels[rows], classes)]
    number = {digit: i for i, digit in enumerate(classes)}
    return x[mine], torch.tensor([number[digit] for digit in labels[mine]])


def one(x: Tensor, labels: np.ndarray, seed: int) -> list[Transfer]:
    """Both directions between two random halves of the digits."""
    random = np.random.default_rng(seed)
    classes, order = random.permutation(10), random.permutation(len(labels))
    test, train = order[: int(TESTED * len(order))], order[int(TESTED * len(order)):]
    found = []
    for target_classes, source_classes in ((classes[:5], classes[5:]), (classes[5:], classes[:5])):
        few, answers = (part[:FEW] for part in task(target_classes, x, labels, train))
        held, truth = task(target_classes, x, labels, test)

        def train_on(net: Network, few: Tensor = few, answers: Tensor = answers) -> Network:
            return fitted(net, few, answers, TARGET, RATE, seed)

        source = fitted(open(cnn(5, seed + 100)), *task(source_classes, x, labels, train), SOURCE, RATE, seed)
        target = train_on(open(cnn(5, seed)))
        found.append(layer_transfer(source, target, lambda: cnn(5, seed), train_on,
                                    lambda net, held=held, truth=truth: accuracy(net, held, truth)))  # type: ignore[misc]
    return found


@proof("layer-transfer")
def transfer() -> Proof:
    """Frozen layers of the other task cost more the deeper the cut; trained on, they are better than a random start."""
    x, labels = digits()
    found = []
    for seed in SEEDS:
        found.append(one(x, labels, seed))
        say(f"seed {seed}: base {np.mean([t.base for t in found[-1]]):.3f}; " + "; ".join(
            f"{arm} " + " ".join(f"{value:.3f}" for value in mean(found[-1], arm)) for arm in ARMS))
    return concluded(found)


def mean(pair: list[Transfer], arm: str) -> np.ndarray:
    """An arm's scores by cut, mean over both directions."""
    return np.mean([t.scores[arm] for t in pair], 0)


def concluded(found: list[list[Transfer]]) -> Proof:
    """The proof from each seed's two directions."""
    def of(arm: str, cut: int) -> list[float]:
        return [float(mean(pair, arm)[cut]) for pair in found]

    def whole(arm: str) -> list[float]:
        return [float(mean(pair, arm).mean()) for pair in found]

    def slope(values: np.ndarray) -> float:
        return float(np.polyfit(np.arange(len(values)), values, 1)[0])

    layers = found[0][0].layers
    base = [float(np.mean([t.base for t in pair])) for pair in found]
    specific = [np.mean([t.specific for t in pair], 0) for pair in found]
    named = "accuracy on the target's test images"
    deepest, first = f"frozen up to layer {len(layers)}", "frozen up to layer 1"

    def against(ours: str, theirs: str, a: list[float], b: list[float], better: str, figure: str = named) -> Comparison:
        return compare(ours, theirs, figure, a, b, better)

    return Proof(
        "layer-transfer", "On split digit classes, frozen transferred layers lose more accuracy the deeper the cut, and "
        "transferred layers that are trained on beat a random start.",
        comparisons=(against(f"transfer, {deepest}", f"transfer, {first}", of("transfer", -1), of("transfer", 0), "lower"),
                     against("transfer", "no slope", [slope(mean(pair, "transfer")) for pair in found], [0.0] * len(found),
                             "lower", "slope of accuracy over the cuts"),
                     against("transfer, trained on, mean over cuts", "random start", whole("transfer+"), base, "higher")),
        beside=(against(deepest, first, [float(s[-1]) for s in specific], [float(s[0]) for s in specific], "higher",
                        "what is lost because the layers are the other task's (own layers frozen - transfer)"),
                against("transfer, trained on, mean over cuts", "own layers, trained on", whole("transfer+"),
                        whole("selffer+"), "higher"),
                against(f"transfer, {first}", f"untrained layers, {first}", of("transfer", 0), of("random", 0), "higher"),
                against(f"transfer, {deepest}", f"untrained layers, {deepest}", of("transfer", -1), of("random", -1), "higher"),
                against(f"own layers, {deepest}", "random start", of("selffer", -1), base, "lower")),
        figures={"layers": layers, "by seed": [{"base": b, **{arm: mean(pair, arm).tolist() for arm in ARMS}}
                                              for b, pair in zip(base, found, strict=True)],
                 "by direction": [[{"base": t.base, **t.scores} for t in pair] for pair in found]},
        n={"training images of the target task": FEW, "test images of a target task, about": 360, "cuts": len(layers),
           "directions of each seed": 2},
        seeds=SEEDS,
        notes=("A CNN of four convolutions, a hidden layer and a head. A seed is its own split of the ten digits in five and "
               "five, its own images and its own initial weights, the same for all arms; both directions are averaged. The "
               "source task has all its training images, the target task a hundred, as transfer is for tasks with few.",
               "Beside: what own layers of the target task lose by freezing is no loss of generality, and an untrained first "
               "layer shows how little the first cut asks for. Trained on, own layers have had twice the training, which "
               "makes them the fair control of the paper.",
               "Smaller than the paper: ten digits of 8 by 8 pixels in place of ImageNet, one score after training.")
    ).unless("Likely why: the two halves of the digits are so much alike that the first four layers serve both, so that only "
             "the last cut costs anything, and a hundred images are nearly enough from a random start.")
