"""Rules about tokens that say where a feature fires: what a name that can be checked without a judge is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .text import EARLIER
from .vocabulary import Vocabulary

SHORTLY = EARLIER  # `back` of a part that may be anywhere in so many tokens before
PLACES = {-1: "before", 1: "after", 2: "two after", 3: "three after", SHORTLY: "shortly after"}


@dataclass(frozen=True)
class Part:
    """One token of a pattern: how far back it stands (0 the token itself, -1 the next), and what it looks like."""

    back: int
    kind: str
    value: str

    def __str__(self) -> str:
        if self.kind == "class":
            return self.value
        quoted = f'"{self.value}"'.replace("\n", "⏎").replace("\t", "⇥")
        quoted = re.sub(" {3,}", lambda run: f"␣×{len(run[0])}", quoted)      # a long gap would read as the end of the name
        words = {"is": "{}", "reads": "{} in any case", "begins": "a token that begins with {}",
                 "ends": "a token that ends with {}"}
        return words[self.kind].format(quoted)


@dataclass(frozen=True)
class Pattern:
    """Parts that must all be there; strength: the mean activation where they are, also where the feature is silent."""

    parts: tuple[Part, ...]
    strength: float = 1.0

    def __str__(self) -> str:
        own = [part for part in self.parts if part.back == 0]
        around = sorted((part for part in self.parts if part.back != 0), key=lambda part: part.back)
        said = [str(part) for part in own] or ["any token"]
        return " ".join([*said, *(f"{PLACES[part.back]} {part}" for part in around)])

    def matches(self, ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """Where all parts are there: bool, of the shape of the token ids [..., t]; nothing is known beyond their ends."""
        found = np.ones(ids.shape, bool)
        for part in self.parts:
            hit = vocabulary.members(part.kind, part.value)[ids]
            if part.back == SHORTLY:
                found &= np.any([_moved(hit, back) for back in range(1, SHORTLY + 1)], axis=0)
            else:
                found &= _moved(hit, part.back)
        return found


@dataclass(frozen=True)
class Rule:
    """Patterns of which one must be there."""

    patterns: tuple[Pattern, ...]

    def __str__(self) -> str:
        return "; or ".join(map(str, self.patterns))

    def matches(self, ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """Where the rule says that the feature fires: bool, of the shape of the token ids [..., t]."""
        return self.activations(ids, vocabulary) > 0

    def activations(self, ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """What the rule expects the feature to be at each token, the strength of the first pattern that is there."""
        expected = np.zeros(ids.shape)
        for pattern in self.patterns:
            expected[(expected == 0) & pattern.matches(ids, vocabulary)] = max(pattern.strength, 1e-12)
        return expected

    def tokens(self, vocabulary: Vocabulary) -> np.ndarray:
        """The tokens that the rule is about, those of each pattern's last part: bool [size]."""
        found = np.zeros(len(vocabulary) + 1, bool)
        for pattern in self.patterns:
            last = min(pattern.parts, key=lambda part: part.back)
            found |= vocabulary.members(last.kind, last.value)
        return found[:-1]


def _moved(hit: np.ndarray, back: int) -> np.ndarray:
    """What is true `back` tokens before, at each token."""
    moved, n = np.zeros_like(hit), hit.shape[-1]
    if abs(back) < n:
        moved[..., max(back, 0): n + min(back, 0)] = hit[..., max(-back, 0): n - max(back, 0)]
    return moved
