"""Remove and retrain on digits: which gradient maps name pixels that a network needs more than random ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..attribute import attribute
from ..attribute.roar import EDGES, INTENSITY, RANDOM, Labelled, Predict, Roar, roar
from ..catalogue import proof
from ..network import open
from .digit_nets import cnn, fitted
from .digit_scenes import split
from .proof import Comparison, Proof, compare, interval, say

SEEDS, SHARES = (0, 1, 2), (0.3, 0.5, 0.7)
EPOCHS, RATE = 10, 4e-3
SEEN = 0.5          # the share removed at which networks also see the masks alone
PLAIN, BETTER = ("saliency", "integrated-gradients"), ("vargrad", "smoothgrad-squared")
METHODS: dict[str, dict[str, Any]] = {"saliency": {}, "integrated-gradients": {"n_steps": 16},
                                      "vargrad": {"n_samples": 15}, "smoothgrad-squared": {"n_samples": 15}}
MARGIN = 0.01       # how much lower an accuracy may be and still be `no faster`


def learn(x: Tensor, y: Tensor, seed: int) -> Predict:
    """A small convolutional network, trained from scratch."""
    return fitted(open(cnn(10, seed)), x, y, EPOCHS, RATE, seed).logits


def one(seed: int) -> Roar:
    """One split, one network that is explained, and the networks that are trained after its maps."""
    parts = split(seed)
    train, test = (Labelled(*part) for part in (parts.train, parts.test))
    net = fitted(open(cnn(10, seed)), *parts.train, EPOCHS, RATE, seed)
    maps = {}
    for name, options in METHODS.items():
        found = [attribute(net, part.x, name, over="pixels", batch_size=512, **options).values for part in (train, test)]
        maps[name] = (found[0].abs(), found[1].abs())
    return roar(learn, train, test, maps, shares=SHARES, seeds=(seed,), masks=[SEEN], progress=False)


@proof("roar")
def retrained() -> Proof:
    """Plain gradient maps are no better than random pixels, VarGrad and SmoothGrad-Squared are."""
    found = []
    for seed in SEEDS:
        found.append(one(seed))
        say(f"seed {seed}: all pixels {found[-1].untouched[0]:.3f}; " + ", ".join(
            f"{way} {found[-1].mean(way)[0]:.3f}" for way in found[-1].ways))
    return concluded(found)


def concluded(found: list[Roar]) -> Proof:
    """The proof from each seed's accuracies."""
    ways = found[0].ways

    def of(way: str) -> list[float]:
        return [float(one.mean(way)[0]) for one in found]

    def masks(way: str) -> list[float]:
        return [float(one.from_masks[one.ways.index(way), SHARES.index(SEEN)].mean()) for one in found]

    def mean_from_masks(way: str) -> str:
        return f"{sum(masks(way)) / len(found):.2f}"

    def against(way: str) -> Comparison:
        return compare(way, "random pixels", "accuracy after retraining, mean over shares", of(way), of(RANDOM))

    def leaked(way: str) -> Comparison:
        return compare(f"masks of {way} alone", "masks of random pixels alone", "accuracy of networks that see only which "
                       f"{SEEN:.0%} of pixels were removed", masks(way), masks(RANDOM), "higher")

    no_faster = tuple(compare(f"{way} and {MARGIN}", "random pixels", "accuracy after retraining, mean over shares",
                              [value + MARGIN for value in of(way)], of(RANDOM), "higher") for way in PLAIN)
    curves = {way: {str(share): {"accuracy": [float(one.accuracy[i, j, 0]) for one in found],
                                 "from masks alone": [float(one.from_masks[i, j, 0]) for one in found],
                                 "not retrained": [float(one.without[i, j, 0]) for one in found]}
                    for j, share in enumerate(SHARES)} for i, way in enumerate(ways)}
    return Proof(
        "roar", "After removal of the same share of pixels and retraining, plain gradient maps cut a digits network's accuracy "
        "no faster than random pixels; VarGrad and SmoothGrad-Squared cut it faster.",
        comparisons=(*no_faster, *map(against, BETTER)),
        beside=(*map(against, (*PLAIN, EDGES, INTENSITY)), *map(leaked, (*PLAIN, *BETTER))),
        figures={"by share": curves, "untouched": [float(one.untouched[0]) for one in found],
                 "mean accuracy": {way: {"mean": sum(of(way)) / len(found), "interval over seeds": interval(of(way))}
                                   for way in ways},
                 "mean accuracy from masks alone": {way: sum(masks(way)) / len(found) for way in ways}},
        n={**found[0].n, "shares": len(SHARES), "networks trained": len(found) * (1 + len(ways) * (len(SHARES) + 1))},
        seeds=SEEDS,
        notes=(f"Scikit-learn's digits; a network of four convolutions, {EPOCHS} epochs. A seed is a split, a network that is "
               f"explained and networks that are trained anew. Shares removed: {', '.join(f'{s:.0%}' for s in SHARES)}, to the "
               "mean of the training images. Maps are absolute values for the predicted class's logit; integrated gradients "
               "from black in 16 steps, noisy gradients over 15 copies with a deviation of 0.15.",
               "Networks that see only the mask of removed pixels say how far a map's shape gives the class away: retraining "
               "rewards such a map, whatever it removes.",
               "Smaller than the paper: 8 x 8 grey pixels and 10 classes, against ResNet-50 on ImageNet and others.")
    ).unless(
        "Likely why: on digits every informed map leaves its outline behind, and the outline of removed pixels tells the class "
        f"by itself: networks that see only the masks reach {' and '.join(map(mean_from_masks, BETTER))} for VarGrad and "
        "SmoothGrad-Squared and "
        f"{mean_from_masks(RANDOM)} for random pixels. Retraining then makes up for what was removed.")
