"""Stretches of text in which a feature fires, and stretches in which it verifiedly does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..dictionaries import Feature
from .text import NAMING, SCORING, Text

ACTIVE, RANDOM, HARD = "active", "random", "hard"
STRONG = 0.3       # a token is marked when its activation is above this share of its window's largest
FEWEST = 8         # windows of either kind without which nothing is scored
PEAKS = 0.9        # the peak tokens that hard negatives are made of stand for this share of the feature's peaks


class Unmeasurable(ValueError):
    """A score that cannot be had of this feature, with the reason."""


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of text.

    ids, activations: [length], of its tokens and of the feature there; kind: `active`, `random` (the feature is silent) or
    `hard` (silent, although a token is there at which it fires elsewhere); quantile: of its largest activation among all
    windows in which the feature fires.
    """

    row: int
    start: int
    ids: np.ndarray
    activations: np.ndarray
    kind: str
    quantile: float = float("nan")
    data: Any = field(default=None, repr=False)

    @property
    def active(self) -> bool:
        return self.kind == ACTIVE

    @property
    def marks(self) -> np.ndarray:
        """Which tokens the feature fires at strongly: bool [length]."""
        return self.activations > STRONG * max(float(self.activations.max()), 1e-12)

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each token."""
        return self.data.pieces(self.row, self.start, self.start + len(self.ids))

    def __str__(self) -> str:
        return "".join(self.pieces)

    def marked(self, marks: np.ndarray | None = None) -> str:
        """The text with «marks» around stretches of marked tokens; left out, those at which the feature fires strongly."""
        marks = self.marks if marks is None else marks
        said, inside = "", False
        for piece, mark in zip(self.pieces, marks, strict=True):
            if mark != inside:
                said, inside = said + ("«" if mark else "»"), bool(mark)
            said += piece.replace("«", "<").replace("»", ">")
        return said + ("»" if inside else "")


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows to score a name on, none of them from a document on which the name was found.

    active, silent: windows; half of the silent ones are hard negatives, as far as there are such.
    density: the share of all windows of that side in which the feature fires.
    """

    active: list[Window]
    silent: list[Window]
    density: float
    text: Text

    @property
    def all(self) -> list[Window]:
        return [*self.active, *self.silent]


def examples(feature: Feature, text: Text, n: int = 50, seed: int = 0) -> Examples:
    """About n windows of the scoring side in which a feature fires, evenly from all its quantiles, and n in which it does not.

    That a silent window is silent is read from the activations, not assumed. Of a feature that fires with both signs, the
    positive one is named; a window with the other alone is on neither side. Raises Unmeasurable where there are too few.
    """
    random = np.random.default_rng([seed, feature.index])
    dense, largest = _largest(feature, text)
    there, below = text.window_side == SCORING, np.zeros(len(largest), bool)
    below[text.window_of[(dense < 0) & (text.window_of >= 0)]] = True      # where a feature of both signs fires the other way
    fires, silent = np.flatnonzero(there & (largest > 0)), np.flatnonzero(there & (largest == 0) & ~below)
    for found, what in ((fires, "in which it fires"), (silent, "in which it is silent")):
        if len(found) < FEWEST:
            raise Unmeasurable(f"there are {len(found)} windows of held-out text {what}, and it takes at least {FEWEST}")
    order = fires[np.argsort(-largest[fires], kind="stable")]
    chosen = [random.choice(part) for part in np.array_split(order, min(n, len(order)))]
    rank = {int(i): 1 - place / len(order) for place, i in enumerate(order)}
    is_hard = np.isin(text.windows[silent], peaks(feature, text, dense)).any(1)
    hard = random.permutation(silent[is_hard])[: n // 2]
    other = random.permutation(silent[~is_hard])[: n - len(hard)]

    def made(i: int, kind: str) -> Window:
        return window(text, dense, i, kind, rank.get(int(i), float("nan")))
    return Examples([made(i, ACTIVE) for i in chosen], [*(made(i, HARD) for i in hard), *(made(i, RANDOM) for i in other)],
                    len(fires) / int(there.sum()), text)


def strongest(feature: Feature, text: Text, n: int = 20) -> list[Window]:
    """Windows of the naming side in which a feature fires: half of them the strongest, the others from all its quantiles."""
    dense, largest = _largest(feature, text)
    fires = np.flatnonzero((text.window_side == NAMING) & (largest > 0))
    if len(fires) < FEWEST:
        raise Unmeasurable(f"it fires in {len(fires)} windows of the text to name it on, and it takes at least {FEWEST}")
    order = fires[np.argsort(-largest[fires], kind="stable")]
    top = order[: (n + 1) // 2]
    rest = order[len(top):]
    spread = rest[np.unique(np.linspace(0, len(rest) - 1, min(n - len(top), len(rest))).astype(int))]
    return [window(text, dense, i, ACTIVE, 1 - float(np.flatnonzero(order == i)[0]) / len(order)) for i in [*top, *spread]]


def window(text: Text, dense: np.ndarray, i: int, kind: str, quantile: float = float("nan")) -> Window:
    """One window of a text by its number; dense: activations [rows, t]."""
    row, start = map(int, text.places[i])
    span = slice(start, start + text.length)
    return Window(row, start, text.ids[row, span], dense[row, span], kind, quantile, text.data)


def peaks(feature: Feature, text: Text, dense: np.ndarray) -> np.ndarray:
    """The tokens at which a feature fires most strongly in a window of the naming side, the commonest of them: ids [n]."""
    rows, starts = text.places[text.window_side == NAMING].T
    if len(rows) == 0:
        return np.zeros(0, np.int64)
    columns = starts[:, None] + np.arange(text.length)
    values = dense[rows[:, None], columns]
    fires = values.max(1) > 0
    at = values[fires].argmax(1)
    ids, counts = np.unique(text.ids[rows[fires], starts[fires] + at], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    enough = np.searchsorted(np.cumsum(counts[order]), PEAKS * counts.sum()) + 1
    return ids[order[:enough]]


def _largest(feature: Feature, text: Text) -> tuple[np.ndarray, np.ndarray]:
    """A feature's activations [rows, t], and the largest in each window [n]."""
    dense = text.activations(feature)
    largest = np.zeros(len(text.places), np.float32)
    inside = text.window_of >= 0
    np.maximum.at(largest, text.window_of[inside], dense[inside])
    return dense, largest
