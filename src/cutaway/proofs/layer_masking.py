"""Removing parts of digits from every layer, against painting them black or grey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..attribute import inputs_of
from ..attribute.attribute import as_batch
from ..attribute.layer_masking import lime
from ..attribute.masked import masked
from ..attribute.robust_explain import places
from ..attribute.target import Target
from ..catalogue import proof
from ..network import Network, open
from .digit_nets import accuracy, cnn, fitted
from .digit_scenes import Scenes, scene_cnn, scenes, split
from .proof import Comparison, Proof, compare, say

SEEDS = (0, 1, 2, 3, 4)
EPOCHS, CANVAS_EPOCHS, RATE = 10, 20, 4e-3
CANVASES, SHOWN, SAMPLES, PATCH = 2_000, 60, 256, 2
SHARES = (0.25, 0.5, 0.75)                 # of patches that are removed
INK = 0.3                                  # a digit's shape is where it is darker than this
OURS = "layer masking"
Remove = Callable[[Tensor, Tensor], Tensor]   # (images [n, 1, h, w], pixels kept [n, h, w]) -> what a network is given


def ways(train: Tensor) -> dict[str, Remove]:
    """Each way of removing pixels: layer masking, or painting them in a colour, or in the training images' mean."""
    def painted(colour: Tensor | float) -> Remove:
        return lambda x, keep: torch.where(keep[:, None] > 0, x, torch.as_tensor(colour).expand_as(x))
    return {OURS: masked, "black": painted(0.0), "grey": painted(0.5), "mean of each pixel": painted(train.mean(0))}


def blocks(n: int, side: int, share: float, random: np.random.Generator) -> Tensor:
    """Random masks of n images [n, side, side] that remove a share of the patches."""
    cells = side // PATCH
    order = torch.from_numpy(random.random((n, cells * cells)).argsort(1))
    keep = (order >= round(share * cells * cells)).float().view(n, cells, cells)
    return keep.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)


@torch.no_grad()
def shape_leak(net: Network, remove: Remove, x: Tensor, y: Tensor, random: np.random.Generator) -> float:
    """How well a linear probe tells the class of a digit from a network's answers to noise with the digit's shape removed.

    The noise is of the images' own mean and spread, and the masks alone know the digit: 0.1 is chance.
    """
    from sklearn.linear_model import LogisticRegression
    noise = torch.from_numpy(random.normal(float(x.mean()), float(x.std()), x.shape)).float().clamp(0, 1)
    said = net.logits(remove(noise, (x[:, 0] < INK).float())).numpy()
    half = len(x) // 2
    said = (said - said[:half].mean(0)) / (said[:half].std(0) + 1e-6)
    probe = LogisticRegression(max_iter=3000).fit(said[:half], y[:half].numpy())
    return float(probe.score(said[half:], y[half:].numpy()))


@torch.no_grad()
def under_removal(net: Network, remove: Remove, x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    """Accuracy and how far predictions crowd into one class, with random patches removed: means over shares."""
    random, found = np.random.default_rng(seed), []
    for share in SHARES:
        said = net.logits(remove(x, blocks(len(x), x.shape[-1], share, random))).argmax(-1)
        counts = torch.bincount(said, minlength=10) / len(said)
        entropy = float(-(counts * counts.clamp(min=1e-12).log()).sum())
        found.append((float((said == y).float().mean()), float(counts.max()), entropy))
    return dict(zip(("accuracy", "commonest class", "entropy of classes"), np.mean(found, 0).tolist(), strict=True))


def lime_maps(net: Network, remove: Remove, data: Scenes, seed: int) -> dict[str, float]:
    """How well LIME finds the digit's quadrant when parts are removed in one way: `pointing` and `mass`."""
    inputs = inputs_of(net, as_batch(net, data.x), "patches", patch=PATCH)
    target = Target("probability", data.y)

    def value(rows: Tensor, gates: Tensor) -> Tensor:
        keep = inputs.units.spread(gates.unflatten(1, inputs.shape), rows)[:, 0]
        return inputs.values(remove(data.x[rows], keep), target, rows)

    weights = lime(value, len(data.y), inputs.keep[0].numel(), SAMPLES, seed=seed, limit=SAMPLES).view(inputs.keep.shape)
    quadrants = data.place[:, ::PATCH, ::PATCH]
    return {name: float(values.mean()) for name, values in places(weights, quadrants).items() if name != "localisation"}


def one(seed: int) -> dict[str, dict[str, float]]:
    """All figures of one seed, by way of removing."""
    parts = split(seed)
    net = fitted(open(cnn(10, seed)), *parts.train, EPOCHS, RATE, seed)
    train, test = scenes(*parts.train, CANVASES, seed), scenes(*parts.test, SHOWN, seed + 1000)
    wide = fitted(scene_cnn(seed), train.x, train.y, CANVAS_EPOCHS, RATE, seed)
    say(f"seed {seed}: accuracy on digits {accuracy(net, *parts.test):.3f}, on canvases {accuracy(wide, test.x, test.y):.3f}")
    found, (x, y) = {}, parts.test
    small, large = ways(parts.train[0]), ways(train.x)
    for name in small:
        found[name] = {"shape leak": shape_leak(net, small[name], x, y, np.random.default_rng(seed)),
                       **under_removal(net, small[name], x, y, seed), **lime_maps(wide, large[name], test, seed)}
        say(f"  {name}: " + ", ".join(f"{figure} {value:.3f}" for figure, value in found[name].items()))
    return found


@proof("layer-masking")
def removed() -> Proof:
    """Outputs depend less on a mask's shape and colour, and LIME finds digits better."""
    return concluded([one(seed) for seed in SEEDS])


def concluded(found: list[dict[str, dict[str, float]]]) -> Proof:
    """The proof from each seed's figures."""
    def against(way: str, figure: str, better: str, said: str) -> Comparison:
        return compare(OURS, way, said, [row[OURS][figure] for row in found], [row[way][figure] for row in found], better)

    def mean(way: str, figure: str) -> float:
        return sum(row[way][figure] for row in found) / len(found)

    judged = (("shape leak", "lower", "probe's accuracy from outputs for noise with a digit's shape removed"),
              ("commonest class", "lower", "share of the commonest prediction with random patches removed"),
              ("pointing", "higher", "share of LIME maps whose largest weight lies on the digit"))
    rest = (("accuracy", "higher", "accuracy with random patches removed"),
            ("entropy of classes", "higher", "entropy of predictions with random patches removed"),
            ("mass", "higher", "share of LIME's positive weights on the digit"))
    return Proof(
        "layer-masking", "On digits, layer masking makes a network's outputs depend less on the shape and colour of what is "
        "removed than black or grey paint, and gives better LIME maps.",
        comparisons=tuple(against(way, *figure) for figure in judged for way in ("black", "grey")),
        beside=(*(against("mean of each pixel", *figure) for figure in judged),
                *(against(way, *figure) for figure in rest for way in ("black", "grey", "mean of each pixel"))),
        figures={"by_seed": found},
        n={"test images": 497, "canvases explained": SHOWN, "draws of LIME": SAMPLES, "training canvases": CANVASES},
        seeds=SEEDS,
        notes=(f"Scikit-learn's digits. Shape: noise from which a digit's shape (pixels above {INK}) is removed is shown to "
               "the network, and a linear probe on its ten outputs tells the digit, 0.1 by chance. Colour: "
               f"{', '.join(f'{s:.0%}' for s in SHARES)} of patches of {PATCH} x {PATCH} pixels are removed at random, and "
               "what is put there should not push all predictions into one class, 0.1 at best. LIME: canvases of 16 x 16 "
               "pixels with a digit and a digit of scrambled pixels, explained by the probability of the digit. A seed is a "
               "split and two networks.",
               "Smaller than the paper: ResNet-50 on ImageNet there.")
    ).unless(
        "Likely why: canvases are black where nothing stands, so that black paint adds no edge to them, and LIME with black "
        f"paint already points at the digit in {mean('black', 'pointing'):.0%} of maps, with grey paint in "
        f"{mean('grey', 'pointing'):.0%} and by layer masking in {mean(OURS, 'pointing'):.0%}.")
