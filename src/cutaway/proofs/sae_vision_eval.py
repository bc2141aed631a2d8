"""Codes of a small vision transformer's features of digits: classes, unknown digits, shifted digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..catalogue import proof
from ..dictionaries import Dictionary, Facts, TopK
from ..dictionaries.quality.controls import random_initial
from ..dictionaries.quality.probes import auc
from ..dictionaries.vision_eval import Images, vision_eval
from ..network import Network, open
from ..train.learner import Learner
from .proof import Comparison, Proof, compare, say_rows

SEEDS = (0, 1, 2, 3, 4)
KNOWN = 8                                   # digits 0 to 7 are known, 8 and 9 come from elsewhere
WIDTH, K, BATCH = 256, 8, 100
SHAPE: dict[str, Any] = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=8,
                             patch_size=2, num_channels=1, num_labels=KNOWN)
EPOCHS, RATE = 25, 2e-3                     # of the transformer
ROUNDS = 80                                 # epochs of the dictionary
MARGIN = 0.01                               # how much lower an AUC or accuracy may be and still be `as well`


def digits() -> tuple[Tensor, np.ndarray]:
    """Scikit-learn's digits: pixels [n, 1, 8, 8] from 0 to 1, and classes."""
    from sklearn.datasets import load_digits
    pixels, y = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), y


def transformer(x: Tensor, y: np.ndarray, seed: int) -> Network:
    """A vision transformer of three blocks, trained to tell the known digits."""
    import transformers as hf
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = open(hf.ViTForImageClassification(hf.ViTConfig(**SHAPE)))
        optimizer = torch.optim.AdamW(net.module.parameters(), lr=RATE, weight_decay=0.01)
        steps = EPOCHS * (len(x) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        truth = torch.from_numpy(y)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(x))[: len(x) // 64 * 64].split(64):
                loss = torch.nn.functional.cross_entropy(net.logits(x[chosen]), truth[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return net


@torch.no_grad()
def features(net: Network, x: Tensor) -> Tensor:
    """The class token after the last norm: [n, d]."""
    return torch.cat([net.record(part, "norm")["norm"][:, 0] for part in x.split(256)])


def dictionary(x: Tensor, seed: int) -> Dictionary:
    learner = Learner(TopK(WIDTH, K), x, len(x) // BATCH * ROUNDS, BATCH, seed)
    generator = torch.Generator().manual_seed(seed)
    while not learner.done:
        for chosen in torch.randperm(len(x), generator=generator)[: len(x) // BATCH * BATCH].split(BATCH):
            if not learner.done:
                learner.step(x[chosen])
    return learner.export(Facts())


def moved(x: Tensor, random: np.random.Generator) -> Tensor:
    """Each image moved by one pixel, up, down, left or right."""
    ways = [(-1, 2), (1, 2), (-1, 3), (1, 3)]
    return torch.stack([torch.roll(image, *_axis(ways[random.integers(4)])) for image in x])


def _axis(way: tuple[int, int]) -> tuple[int, int]:
    return way[0], way[1] - 1


def one(x: Tensor, y: np.ndarray, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """All figures of one seed: of the trained dictionary and of a random one of the same L0."""
    random = np.random.default_rng(seed)
    known = random.permutation(np.flatnonzero(y < KNOWN))
    train, test = known[: int(0.7 * len(known))], known[int(0.7 * len(known)):]
    net = transformer(x[train], y[train], seed)
    order = torch.from_numpy(random.permutation(64))
    scrambled = x[test].flatten(1)[:, order].view(-1, 1, 8, 8)
    unknown = x[y >= KNOWN]
    seen = {name: features(net, part) for name, part in (
        ("train", x[train]), ("test", x[test]), ("unknown digits", unknown), ("scrambled pixels", scrambled),
        ("shifted", moved(x[test], random)))}
    elsewhere = {name: seen[name] for name in ("unknown digits", "scrambled pixels")}
    learned = dictionary(seen["train"], seed)
    found = {}
    for name, made in (("trained", learned), ("random", random_initial(learned, seen["train"], seed))):
        found[name] = vision_eval(made, Images(seen["train"], y[train]), Images(seen["test"], y[test]), elsewhere,
                                  Images(seen["shifted"], y[test]))
    with torch.no_grad():
        for place, images in (("unknown digits", unknown), ("scrambled pixels", scrambled)):
            sure = net.logits(torch.cat([x[test], images])).softmax(-1).amax(-1).numpy()
            found["trained"][f"ood {place}"]["largest softmax"] = auc(sure, np.arange(len(sure)) < len(test))
        found["trained"]["accuracy"] = {"test": float((net.logits(x[test]).argmax(-1).numpy() == y[test]).mean())}
        codes = learned.encode(seen["train"])
        found["trained"]["dictionary"] = {
            "fvu": float((seen["test"] - learned(seen["test"])).pow(2).sum()
                         / (seen["test"] - seen["test"].mean(0)).pow(2).sum()),
            "alive": float((codes.counts(WIDTH) > 0).float().mean())}
    return found


@proof("sae-vision-eval")
def vision() -> Proof:
    """Codes of digits' features are about classes, and serve for unknown and shifted inputs as well as raw features."""
    x, y = digits()
    found = []
    for seed in SEEDS:
        found.append(one(x, y, seed))
        say_rows(seed, found[-1]["trained"])
    return concluded(found)


def concluded(found: list[dict[str, dict[str, dict[str, float]]]]) -> Proof:
    """The proof from each seed's figures."""
    def of(figure: str, way: str, who: str = "trained") -> list[float]:
        return [row[who][figure][way] for row in found]

    def against_raw(figure: str, way: str = "") -> Comparison:
        return compare("codes", "raw features", figure, of(figure, f"{way}codes"), of(figure, f"{way}raw"), "higher")

    def as_well(figure: str, way: str = "") -> Comparison:
        ours = [value + MARGIN for value in of(figure, f"{way}codes")]
        return compare(f"codes and {MARGIN}", "raw features", figure, ours, of(figure, f"{way}raw"), "higher")

    places, by = ("ood unknown digits", "ood scrambled pixels"), "template of "
    return Proof(
        "sae-vision-eval", "Codes of a small vision transformer's features of digits are about classes, and detect unknown "
        "inputs and transfer to shifted digits at least as well as raw features.",
        comparisons=(against_raw("purity"),
                     compare("codes", "codes of a random dictionary of the same L0", "purity", of("purity", "codes"),
                             of("purity", "codes", "random"), "higher"),
                     *(as_well(place, by) for place in places), as_well("shifted"), as_well("linear shifted")),
        beside=(*(against_raw(place, by) for place in places), against_raw("shifted"), against_raw("linear shifted"),
                *(compare("codes by templates", "largest softmax", place, of(place, f"{by}codes"), of(place, "largest softmax"),
                          "higher") for place in places),
                *(compare("codes by reconstruction", "raw features by templates", place, of(place, "reconstruction of codes"),
                          of(place, f"{by}raw"), "higher") for place in places)),
        figures={"by_seed": found},
        n={"images": 1797, "known classes": KNOWN, "latents": WIDTH, "latents that fire for an image": K},
        seeds=SEEDS,
        notes=(f"Scikit-learn's 1,797 digits of 8 x 8 pixels; digits 0 to {KNOWN - 1} are known, 70% of them to train on. A "
               "vision transformer of 3 blocks and width 64 without pretraining; features are its class token after the "
               f"last norm, codes those of TopK {WIDTH}, k {K}. A seed is a split, a network and a dictionary.",
               "The way of telling unknown inputs, the largest cosine with a class's mean, was fixed beforehand; the other "
               "ways of the facts stand in the figures. Purity is the share of the commonest class among the test images "
               "that fire a unit most; raw features are about their mean.",
               "Smaller than the paper: DINOv2 and CLIP on ImageNet there, with an ontology of classes that digits do not "
               "have, and steering of diffusion models, which is not done here.")
    ).unless(
        "Likely why: a random dictionary's codes are as pure, because the class token of a network that was trained to "
        "tell these very classes lies along few directions, and any sparse code of it is about classes. Against raw "
        f"features, differences of a point or two between {len(found)} seeds leave a margin of {MARGIN} undecided.")
