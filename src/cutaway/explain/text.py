"""The text that features were watched on, as arrays, in two sides: one to find names on and one to score them on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..dictionaries import Feature, Features
from .rules import SHORTLY
from .surroundings import STATES, Surroundings
from .vocabulary import Vocabulary

NAMING, SCORING, NEITHER = 0, 1, 2
LENGTH = 32    # tokens in a window
SPAN = 8       # short documents go to a side together, in stretches of so many rows


@dataclass(frozen=True, eq=False, repr=False)
class Text:
    """Tokens by row, and which side each row is on: no document has rows on both.

    ids: int [rows, t]; counts: bool [rows, t], not special tokens; side: int [rows]; length: tokens in a window.
    """

    data: Any
    ids: np.ndarray
    counts: np.ndarray
    side: np.ndarray
    vocabulary: Vocabulary
    length: int = LENGTH

    @cached_property
    def places(self) -> np.ndarray:
        """Row and first token of each window: int [n, 2]. Windows lie side by side on a grid that no feature chose."""
        lead = int(self.counts.any(0).argmax())
        starts = np.arange(lead, self.ids.shape[1] - self.length + 1, self.length)
        whole = np.stack([self.counts[:, start: start + self.length].all(1) for start in starts], 1) if len(starts) else \
            np.zeros((len(self.ids), 0), bool)
        rows, which = np.nonzero(whole & (self.side != NEITHER)[:, None])
        return np.stack([rows, starts[which] if len(starts) else which], 1)

    @cached_property
    def window_of(self) -> np.ndarray:
        """The window that each token is in, -1 for none: int [rows, t]."""
        found = np.full(self.ids.shape, -1, np.int64)
        for i, (row, start) in enumerate(self.places):
            found[row, start: start + self.length] = i
        return found

    @cached_property
    def windows(self) -> np.ndarray:
        """The tokens of each window: int [n, length]."""
        rows, starts = self.places.T
        return self.ids[rows[:, None], starts[:, None] + np.arange(self.length)]

    @cached_property
    def window_side(self) -> np.ndarray:
        return self.side[self.places[:, 0]]

    def activations(self, feature: Feature) -> np.ndarray:
        """A feature's activation at each token: float32 [rows, t]."""
        values, rows, positions = feature.features.firings(feature.index)
        dense = np.zeros(self.ids.shape, np.float32)
        dense[rows, positions] = values
        return dense

    @cached_property
    def around(self) -> Surroundings:
        """What stands around each token; where a token does not count, there is none."""
        return Surroundings(np.where(self.counts, self.ids, len(self.vocabulary)), self.vocabulary)

    @cached_property
    def naming(self) -> Positions:
        return Positions(self)


class Positions:
    """Every token of the naming side that counts, with what stands around it.

    at: int [n], places in the flattened ids; before: for 0 to 3 tokens back, the token there, [n]; where there is none, the
    number of tokens in the vocabulary; state: which of the combinations of STATES there are the text is in, [n];
    states: what each combination has: float32 [states, combinations].
    """

    BACK = 4

    def __init__(self, text: Text):
        rows, columns = np.nonzero(text.counts & (text.side == NAMING)[:, None])
        none, around = len(text.vocabulary), text.around
        self.at = rows * text.ids.shape[1] + columns
        padded = np.concatenate([np.full((len(text.ids), SHORTLY), none), around.ids], 1)
        self._padded, self._rows, self._columns = padded, rows, columns + SHORTLY
        self.before = [padded[rows, self._columns - back] for back in range(self.BACK)]
        bits = np.sum([around.state(name)[rows, columns].astype(np.int64) << i for i, name in enumerate(STATES)], axis=0)
        found, self.state = np.unique(bits, return_inverse=True)
        self.states = (found >> np.arange(len(STATES))[:, None] & 1).astype(np.float32)

    def earlier(self, chosen: np.ndarray) -> np.ndarray:
        """The tokens shortly before some positions: int [n, SHORTLY]."""
        back = np.arange(1, SHORTLY + 1)
        return self._padded[self._rows[chosen, None], self._columns[chosen, None] - back]


def read(features: Features, length: int = LENGTH, seed: int = 0) -> Text:
    """The text that features were watched on; half of its documents, by a shuffle, are on each side."""
    data = features.data
    if not hasattr(data, "tokens") or features.net.tokenizer is None:
        raise ValueError(f"features are named from the text in which they fire, but {getattr(data, 'name', 'this data')} "
                         "is not text; watch the features on text.")
    ids = np.stack([data.tokens(row) for row in range(data.n_rows)])
    counts = ~np.isin(ids, data.special_ids)
    size = max(int(ids.max()) + 1, len(features.net.tokenizer), getattr(features.net.config, "vocab_size", 0) or 0)
    return Text(data, ids, counts, sides(data, seed), Vocabulary.of(features.net.tokenizer, size), length)


def sides(data: Any, seed: int = 0) -> np.ndarray:
    """The side of each row: int [rows]. Rows that touch documents of both sides are on neither.

    Documents that are shorter than a few rows are kept together with their neighbours. A single document is cut in its
    middle.
    """
    body, starts = data.row_tokens, data.stream.starts
    first = data.index * body
    group = starts // (SPAN * body)

    def group_at(token: np.ndarray) -> np.ndarray:
        return group[np.searchsorted(starts, token, side="right") - 1]

    begin, end = group_at(first), group_at(first + body - 1)
    groups, rows = np.unique(begin, return_counts=True)
    if len(groups) == 1:
        order = np.argsort(first)
        side = np.full(data.n_rows, NEITHER)
        middle = data.n_rows // 2
        side[order[:middle]], side[order[middle + data.n_rows % 2:]] = NAMING, SCORING
        return side
    order = np.random.default_rng(seed).permutation(len(groups))
    here = np.cumsum(rows[order]) <= data.n_rows / 2
    here[0], here[-1] = True, False
    naming = groups[order[here]]
    one, other = np.isin(begin, naming), np.isin(end, naming)
    return np.where(one != other, NEITHER, np.where(one, NAMING, SCORING))
