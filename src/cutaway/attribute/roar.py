"""Remove and retrain: whether the pixels that attributions name are those that a network learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..catalogue import method
from ..data.edges import edges

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Predict = Callable[[Tensor], Tensor]               # images [n, c, h, w] -> logits [n, classes]
Learn = Callable[[Tensor, Tensor, int], Predict]   # (images, classes, seed) -> a network that was trained on them
RANDOM, EDGES, INTENSITY = "random", "edges", "intensity"
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Labelled:
    """Images x [n, c, h, w] and their classes y [n]."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Roar:
    """Accuracy after the most important pixels are removed and a network is trained anew.

    accuracy: [ways, shares, seeds]; from_masks: the same of networks that see only which pixels were removed, which is what
    a map gives away by its shape (nan where it was not asked for); without: of the first networks, not trained anew, on the
    same test images. untouched: [seeds], with all pixels.
    """

    ways: list[str]
    shares: tuple[float, ...]
    seeds: tuple[int, ...]
    accuracy: np.ndarray
    from_masks: np.ndarray
    without: np.ndarray
    untouched: np.ndarray
    n: dict[str, int]

    def mean(self, way: str) -> np.ndarray:
        """Accuracy over all shares of pixels by seed: [seeds]."""
        return self.accuracy[self.ways.index(way)].mean(0)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a way and share: accuracy over seeds, its paired difference to random pixels, and what masks give away."""
        import pandas as pd
        base = self.accuracy[self.ways.index(RANDOM)]
        rows = []
        for i, way in enumerate(self.ways):
            for j, share in enumerate(self.shares):
                apart = self.accuracy[i, j] - base[j]
                half = _half(apart)
                rows.append((way, share, self.accuracy[i, j].mean(), apart.mean(), apart.mean() - half, apart.mean() + half,
                             self.from_masks[i, j].mean(), self.without[i, j].mean(), len(self.seeds)))
        return pd.DataFrame(rows, columns=["way", "removed", "accuracy", "against_random", "low", "high", "from_masks_alone",
                                           "not_retrained", "seeds"])

    def __str__(self) -> str:
        return (f"{self.frame.to_string(index=False, float_format='{:.3f}'.format)}\naccuracy with all pixels "
                f"{self.untouched.mean():.3f}; {self.n['train']} training and {self.n['test']} test images, {len(self.seeds)} "
                "seeds; 95% intervals by Student's t over seeds")

    def plot(self) -> Figure:
        """Accuracy against the share of pixels removed, one line a way."""
        from matplotlib.figure import Figure
        figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=120)
        axes = figure.add_subplot()
        for i, way in enumerate(self.ways):
            style: dict[str, Any] = {"color": "black", "linestyle": "--"} if way == RANDOM else {}
            line = axes.plot((0, *self.shares), [self.untouched.mean(), *self.accuracy[i].mean(1)], label=way, **style)
            axes.fill_between(self.shares, *(self.accuracy[i].mean(1) + s * self.accuracy[i].std(1) for s in (-1, 1)),
                              alpha=0.12, color=line[0].get_color(), linewidth=0)
        axes.set(xlabel="share of pixels removed", ylabel="accuracy after training anew", ylim=(0, 1))
        axes.legend(fontsize=7)
        return figure


@method("roar", family="attribute", title="A benchmark for interpretability methods in deep neural networks",
        paper="arXiv 1806.10758", roster="247")
def roar(learn: Learn, train: Labelled, test: Labelled, maps: Mapping[str, tuple[Tensor, Tensor]], *,
         shares: Sequence[float] = SHARES, seeds: Sequence[int] = (0, 1, 2), masks: Sequence[float] | None = None,
         progress: bool = True) -> Roar:
    """Remove the pixels that each map calls most important, train anew, and see how far accuracy falls.

    learn: `(images, classes, seed) -> predict`, which trains a network from scratch. maps: by name, importance for the
    training and the test images, [n, h, w], or [n, c, h, w] to rank single channels of pixels as the authors do. Random
    pixels, Sobel's edges and intensity are added. shares: of pixels that are removed, to each channel's mean over the
    training images. seeds: of the networks and of random pixels. masks: the shares at which networks are also trained on
    the masks alone, which says how far their shape gives the class away; left out, all.

    A map that beats random pixels here may do so because networks need what it removes, or fail to because its shape tells
    the class: compare with the masks alone.
    """
    ways = {RANDOM: None, **{name: tuple(map(_checked, pair, (train, test), (name, name))) for name, pair in maps.items()},
            EDGES: (edges(train.x), edges(test.x)), INTENSITY: (train.x.abs().sum(1), test.x.abs().sum(1))}
    wrong = [share for share in shares if not 0 < share < 1]
    if wrong or not shares or not seeds:
        raise ValueError(f"shares lie between 0 and 1, and there is at least one of them and one seed; found {list(shares)} "
                         f"and {list(seeds)}.")
    fill = train.x.mean((0, 2, 3), keepdim=True)
    size = (len(ways), len(shares), len(seeds))
    accuracy, alone, without = np.zeros(size), np.full(size, np.nan), np.zeros(size)
    untouched = np.zeros(len(seeds))
    bar = tqdm(total=int(np.prod(size)), desc="roar", unit="network", leave=False, disable=None if progress else True)
    for k, seed in enumerate(seeds):
        first = learn(train.x, train.y, seed)
        untouched[k] = _accuracy(first, test.x, test.y)
        for i, pair in enumerate(ways.values()):
            for j, share in enumerate(shares):
                gone = [_gone(None if pair is None else pair[side], part.x, share, 2 * seed + side)
                        for side, part in enumerate((train, test))]
                cut, shown = (torch.where(g, fill, part.x) for g, part in zip(gone, (train, test), strict=True))
                accuracy[i, j, k] = _accuracy(learn(cut, train.y, seed), shown, test.y)
                without[i, j, k] = _accuracy(first, shown, test.y)
                if share in (shares if masks is None else masks):
                    seen = [g.to(train.x).expand_as(part.x) for g, part in zip(gone, (train, test), strict=True)]
                    alone[i, j, k] = _accuracy(learn(seen[0], train.y, seed), seen[1], test.y)
                bar.update()
    bar.close()
    return Roar(list(ways), tuple(shares), tuple(seeds), accuracy, alone, without, untouched,
                {"train": len(train.y), "test": len(test.y)})


def _checked(values: Tensor, images: Labelled, name: str) -> Tensor:
    fits = values.shape in (images.x.shape, (len(images.x), *images.x.shape[2:]))
    if not fits or not bool(torch.isfinite(values).all()):
        raise ValueError(f"the map {name!r} must hold a finite number for each pixel of {list(images.x.shape)}; found "
                         f"{list(values.shape)}{'' if not fits else ' with NaN or infinity'}.")
    return values


def _gone(importance: Tensor | None, x: Tensor, share: float, seed: int) -> Tensor:
    """The most important share of entries of each image, ties at random: bool, broadcasting against x."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.zeros(len(x), *x.shape[2:]) if importance is None else importance
    flat = values.flatten(1)
    drawn = torch.rand(flat.shape, generator=generator).argsort(1)
    order = drawn.gather(1, flat.gather(1, drawn).argsort(dim=1, descending=True, stable=True))
    chosen = order[:, : round(share * flat.shape[1])]
    gone = torch.zeros(flat.shape, dtype=torch.bool).scatter_(1, chosen, True).view(values.shape)
    return gone[:, None] if gone.ndim == 3 else gone


@torch.no_grad()
def _accuracy(predict: Predict, x: Tensor, y: Tensor) -> float:
    return float((predict(x).argmax(-1).cpu() == y.cpu()).float().mean())


def _half(apart: np.ndarray) -> float:
    """Half of the 95% interval of a mean by Student's t; nan for one seed."""
    from scipy.stats import t
    return float(t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else float("nan")
