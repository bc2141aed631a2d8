"""Units that fire for two digits: does each facet show one of them, and does plain activation maximisation show a mix?"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..catalogue import proof
from ..explain.multifaceted import NEAREST, activation, ascend, codes_of, facets, multifaceted
from ..network import Network, open
from .proof import Comparison, Proof, compare, over_seeds
from .sae_vision_eval import digits

SEEDS = (0, 1, 2, 3, 4)
PAIRS = ((0, 1), (2, 3), (4, 7), (5, 6), (8, 9))     # the digits for which each unit of the looked-at network fires
K = 2                                                # facets of a unit, and runs of each other way
EPOCHS, BATCH, RATE = 20, 64, 3e-3
REACHED = 0.9                                        # probability that a picture must give its unit
WAYS = ("facets", "plain", "random groups", "shuffled features")


class CNN(nn.Module):
    """Two convolutions and a linear head."""

    def __init__(self, classes: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2),
                                  nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def trained(x: Tensor, y: np.ndarray, classes: int, seed: int) -> Network:
    """A CNN that tells classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, truth = open(CNN(classes)), torch.from_numpy(y).long()
        optimizer = torch.optim.Adam(net.module.parameters(), lr=RATE)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(x)).split(BATCH):
                # Noise keeps the network from answering to single pixels, whose pictures would show nothing.
                noisy = (x[chosen] + 0.2 * torch.randn_like(x[chosen])).clamp(0, 1)
                loss = nn.functional.cross_entropy(net.logits(noisy), truth[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net


def pictures_of(net: Network, unit: int, images: Tensor, seed: int) -> dict[str, Tensor]:
    """Pictures of a unit by each way, from the images that fire it."""
    generator = torch.Generator().manual_seed(seed)
    z = codes_of(net, "body:out", images)
    shuffled = torch.stack([column[torch.randperm(len(z), generator=generator)] for column in z.T], 1)
    starts = {"plain": 0.5 + 0.1 * torch.randn(K, *images.shape[1:], generator=generator),
              "random groups": torch.stack([images[torch.randperm(len(images), generator=generator)[:NEAREST]].mean(0)
                                            for _ in range(K)]),
              "shuffled features": facets(shuffled, images, K, seed)[1]}
    return {"facets": multifaceted(net, "head:out", unit, images, "body:out", K, seed).pictures,
            **{way: ascend(net, "head:out", unit, start.clamp(0, 1), (0.0, 1.0)) for way, start in starts.items()}}


@torch.no_grad()
def judged(net: Network, judge: Network, unit: int, pictures: Tensor) -> dict[str, float]:
    """What a network that was trained to tell all digits sees in a unit's pictures.

    shown: the share of the unit's two digits that are the likeliest of all in some picture; mixed: in a picture, how nearly
    both digits are equally likely (0 to 1), on average; apart: 1 less the cosine of the pictures' features in the judge;
    reached: the unit's own probability, on average.
    """
    p = judge.logits(pictures).softmax(1)
    own = p[:, list(PAIRS[unit])]
    seen = set(p.argmax(1).tolist())
    features = codes_of(judge, "body:out", pictures)
    return {"shown": float(np.mean([digit in seen for digit in PAIRS[unit]])),
            "mixed": float((2 * own.amin(1) / own.sum(1).clamp(min=1e-9)).mean()),
            "apart": 1 - float(torch.cosine_similarity(features[0], features[1], dim=0)),
            "reached": float(net.logits(pictures).softmax(1)[:, unit].mean())}


def one(x: Tensor, y: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """The figures of each way on average over units: half of the images train the network, the other half the judge."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(y))
    half, other = order[: len(y) // 2], order[len(y) // 2:]
    unit_of = {digit: unit for unit, pair in enumerate(PAIRS) for digit in pair}
    net = trained(x[half], np.array([unit_of[digit] for digit in y[half]]), len(PAIRS), seed)
    judge = trained(x[other], y[other], 10, 100 + seed)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    agree = []
    for unit, pair in enumerate(PAIRS):
        mine = half[np.isin(y[half], pair)]
        with torch.no_grad():
            fires = activation(net, "head:out", unit, x[mine]).numpy() > 0
        mine = mine[fires]
        for way, pictures in pictures_of(net, unit, x[mine], seed).items():
            found[way].append(judged(net, judge, unit, pictures))
        kinds = facets(codes_of(net, "body:out", x[mine]), x[mine], K, seed)[0]
        same = float(((kinds == 1) == (y[mine] == pair[1])).mean())
        agree.append(max(same, 1 - same))
    with torch.no_grad():
        right = float((judge.logits(x[half]).argmax(1).numpy() == y[half]).mean())
    return {**{way: {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} for way, rows in found.items()},
            "networks": {"judge's accuracy": right, "facets that are digits": float(np.mean(agree))}}


@proof("multifaceted-viz")
def facets_of_units() -> Proof:
    """Facet by facet a unit's pictures show each of its digits; plain ones show a mix."""
    x, y = digits()
    return concluded(over_seeds(partial(one, x, y), SEEDS))


def concluded(found: list[dict[str, dict[str, float]]]) -> Proof:
    """The proof from each seed's figures."""
    def of(way: str, figure: str) -> list[float]:
        return [row[way][figure] for row in found]

    def against(other: str, figure: str, better: str = "higher") -> Comparison:
        return compare("facets", other, figure, of("facets", figure), of(other, figure), better)

    shown = "shown"
    return Proof(
        "multifaceted-viz", "For units of a digits CNN that fire on two digits, facet-wise activation maximisation from mean "
        "images gives one picture for each digit; plain maximisation gives a mix.",
        comparisons=(against("plain", shown), against("random groups", shown), against("plain", "mixed", "lower")),
        checks={f"facets' pictures give their unit a probability of {REACHED} or more on average":
                min(of("facets", "reached")) >= REACHED},
        beside=(against("shuffled features", shown), against("random groups", "mixed", "lower"), against("plain", "apart"),
                against("random groups", "apart")),
        figures={"by_seed": found},
        n={"units": len(PAIRS), "pictures of a unit by each way": K, "images of the network": 898, "images of the judge": 899,
           "images of a start": NEAREST},
        seeds=SEEDS,
        notes=("Scikit-learn's digits of 8 x 8 pixels. A network learns five classes of two digits each, so that its units "
               f"have two known facets ({', '.join(f'{a} and {b}' for a, b in PAIRS)}); digits are never told to it. "
               "Pictures are judged by another network, trained on the other half of the images to tell all ten digits.",
               "`shown`: the share of a unit's two digits that the judge finds likeliest in one of its two pictures. "
               "`mixed`: how nearly both digits are equally likely in a picture. Plain starts from grey noise; random "
               f"groups from means of {NEAREST} random images of the unit; shuffled features from clusters of features "
               "without their relations.",
               "Steps, their size and the smoothing were chosen on a seed of their own, from seven settings, by the sum of "
               "`shown` over all ways; with more and larger steps the pictures of all ways show fewer of the digits.",
               "A seed is a split, both networks and all starts. Smaller than the paper: units of AlexNet on ImageNet and ten "
               "facets there, which were judged by looking."))
