"""DeepLIFT on a digits network: do contributions sum to the difference, and do they say which pixels to erase?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attribute import Target, inputs_of
from ..attribute.inputs import Inputs
from ..catalogue import find, proof
from ..data import Batch
from ..network import Network, open
from .digit_nets import accuracy, cnn, fitted
from .digit_scenes import split
from .proof import Comparison, Proof, compare, over_seeds

SEEDS = (0, 1, 2, 3, 4)
IMAGES, SHARE = 200, 0.2           # test images; the share of pixels that may be erased, as in the paper
EPOCHS, RATE = 15, 4e-3
EXACT = 1e-4                       # how far contributions may be from summing to the difference
WAYS = ("reveal-cancel", "rescale", "gradient", "gradient times input", "integrated gradients", "ink", "random")


def contributions(inputs: Inputs, target: Target, seed: int) -> dict[str, Tensor]:
    """What each way says of each pixel [n, 64]: positive where it speaks for the answer rather than the other class."""
    def by(id: str, **options: object) -> Tensor:
        return find(id, "attribute").object(inputs, target, **options).flatten(1)

    return {"reveal-cancel": by("deeplift", rule="reveal-cancel"), "rescale": by("deeplift", rule="rescale"),
            "gradient": inputs.units.gather(inputs.gradient(target)[1]).flatten(1),
            "gradient times input": by("input-x-gradient"), "integrated gradients": by("integrated-gradients"),
            "ink": inputs.units.gather(inputs.x).flatten(1), "random": by("random", seed=seed)}


def erased(inputs: Inputs, target: Target, found: Tensor) -> Tensor:
    """How much the target falls when the pixels with the largest positive values go, at most `SHARE` of all: [n]."""
    n = round(SHARE * found.shape[1])
    places = found.argsort(dim=1, descending=True, stable=True)[:, :n]
    gone = torch.zeros_like(found).scatter_(1, places, 1.0) * (found > 0)
    with torch.no_grad():
        before = inputs.values(inputs.x, target)
        return before - inputs.gated((1 - gone).view(-1, *inputs.shape), target)


def one(seed: int) -> dict[str, dict[str, float]]:
    """The figures of one seed: a split and a network."""
    parts = split(seed)
    net = fitted(open(cnn(10, seed)), *parts.train, EPOCHS, RATE, seed)
    x = parts.test[0][:IMAGES]
    logits = net.logits(x).detach()
    first, second = logits.topk(2, 1).indices.T
    inputs, target = inputs_of(net, Batch(x, None, None, torch.arange(len(x))), baseline="zero"), Target("logit", first, second)
    inputs.limit = 1024
    found = contributions(inputs, target, seed)
    fall = {way: float(erased(inputs, target, values).mean()) for way, values in found.items()}
    with torch.no_grad():
        difference = inputs.values(inputs.x, target) - inputs.values(inputs.baseline, target)
    gap = {way: float((found[way].sum(1) - difference).abs().max()) for way in ("reveal-cancel", "rescale",
                                                                               "gradient times input", "integrated gradients")}
    return {"fall": fall, "gap": gap, "network": {"accuracy": accuracy(net, *parts.test),
                                                  "rescale less captum's": captum_s(net, inputs, target, found["rescale"])}}


def captum_s(net: Network, inputs: Inputs, target: Target, rescale: Tensor) -> float:
    """The largest difference of a value from captum's DeepLIFT."""
    theirs = find("captum-deeplift", "attribute").object(inputs, target).flatten(1)
    return float((theirs - rescale).abs().max())


@proof("deeplift")
def differences() -> Proof:
    """DeepLIFT's contributions sum to the difference from the reference, and name the pixels to erase."""
    return concluded(over_seeds(one, SEEDS))


def concluded(found: list[dict[str, dict[str, float]]]) -> Proof:
    """The proof from each seed's figures."""
    def fall(way: str) -> list[float]:
        return [row["fall"][way] for row in found]

    def against(other: str, way: str = "reveal-cancel") -> Comparison:
        return compare(f"DeepLIFT ({way})", other, "fall of the log-odds", fall(way), fall(other), "higher")

    worst = max(row["gap"][rule] for row in found for rule in ("reveal-cancel", "rescale"))
    same = max(row["network"]["rescale less captum's"] for row in found)
    return Proof(
        "deeplift", "DeepLIFT's contributions on a digits network sum to the difference of the output from the reference, "
        "and erasing the pixels with the largest changes the log-odds of the answer more than by the gradient's ranking.",
        comparisons=(against("gradient"), against("gradient times input")),
        checks={f"contributions of both rules sum to the difference within {EXACT}": worst <= EXACT,
                f"the rescale rule gives captum's values within {EXACT}": same <= EXACT},
        beside=(*(against(other) for other in ("rescale", "integrated gradients", "ink", "random")),
                *(against(other, "rescale") for other in ("gradient", "gradient times input", "integrated gradients"))),
        figures={"by_seed": found, "largest gap": worst, "largest difference from captum": same},
        n={"images": IMAGES, "pixels": 64, "pixels erased at most": round(SHARE * 64)}, seeds=SEEDS,
        notes=("Scikit-learn's digits of 8 x 8 pixels, a network of four convolutions and a hidden layer; a seed is a "
               "split and a network. What is explained is the logit of the network's answer less that of its second "
               f"choice, against a black image. Up to {SHARE:.0%} of the pixels, those with the largest positive values, "
               "are set to black; the log-odds are those of the two classes.",
               "The gradient ranks by its signed value, `gradient times input` by its product with the pixel. Smaller than "
               "the paper: MNIST of 28 x 28 pixels there, and all pairs of classes.")
    ).unless("Likely why: erasing sets pixels to the reference, so each way that knows the sign and the amount of ink is "
             "near the best there is on 64 pixels, and differences between them are small.")
