"""Small images with known places: digits on a canvas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..network import Network, open
from .sae_vision_eval import digits

SIDE = 16                                        # of a canvas; a digit is half as wide and high
QUADRANTS = ((0, 0), (0, 8), (8, 0), (8, 8))


@dataclass(frozen=True)
class Split:
    """Digits to train on, to choose settings on, and to test on: x [n, 1, 8, 8] from 0 to 1 and y [n]."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def split(seed: int) -> Split:
    """Scikit-learn's 1,797 digits, drawn apart by a seed: 1,100 to train on, 200 to choose on, 497 to test on."""
    x, labels = digits()
    y, order = torch.from_numpy(labels), torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    return Split(*((x[part], y[part]) for part in order.split([1100, 200, len(x) - 1300])))


@dataclass(frozen=True)
class Scenes:
    """Canvases x [n, 1, 16, 16], each with two things in two of its quadrants.

    y: [n], the class of the first thing, a digit; other: [n], the class of the second where that is a digit too, else -1;
    place, other_place: bool [n, 16, 16], their quadrants.
    """

    x: Tensor
    y: Tensor
    other: Tensor
    place: Tensor
    other_place: Tensor

    def take(self, n: int) -> Scenes:
        return Scenes(*(getattr(self, name)[:n] for name in self.__dataclass_fields__))


def scenes(x: Tensor, y: Tensor, n: int, seed: int, *, pairs: bool = False) -> Scenes:
    """n canvases of digits x [m, 1, 8, 8] of the classes y [m].

    The second thing is a digit of another class for pairs; else it is a digit whose pixels are put into a random order, with
    the same ink and no class.
    """
    random = np.random.default_rng(seed)
    first, labels = random.integers(len(x), size=n), y.numpy()
    second = random.integers(len(x), size=n)
    while pairs and (same := labels[first] == labels[second]).any():
        second[same] = random.integers(len(x), size=int(same.sum()))
    canvas, places = torch.zeros(n, 1, SIDE, SIDE), torch.zeros(2, n, SIDE, SIDE, dtype=torch.bool)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        thing = x[b] if pairs else x[b].flatten()[torch.from_numpy(random.permutation(64))].view(1, 8, 8)
        for which, (what, quadrant) in enumerate(zip((x[a], thing), random.permutation(4)[:2], strict=True)):
            down, across = QUADRANTS[quadrant]
            canvas[i, :, down: down + 8, across: across + 8] = what
            places[which, i, down: down + 8, across: across + 8] = True
    other = torch.from_numpy(labels[second]) if pairs else torch.full((n,), -1)
    return Scenes(canvas, torch.from_numpy(labels[first]), other, places[0], places[1])


def scene_cnn(seed: int) -> Network:
    """An untrained convolutional network for canvases of 16 x 16 pixels, which ends in a mean over places."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open(nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)))
