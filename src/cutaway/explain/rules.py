"""Rules about tokens that say where a feature fires: what a name that can be checked without a judge is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .surroundings import Surroundings
from .vocabulary import Vocabulary

SHORTLY = 12  # `back` of a part that may be anywhere in so many tokens before
PLACES = {-1: "before", 1: "after", 2: "two after", 3: "three after", SHORTLY: "shortly after"}


@dataclass(frozen=True)
class Part:
    """One token of a pattern: how far back it stands (0 the token itself, -1 the next), and what it looks like.

    A part of kind `state` is not about a token, but about the text there: its value is one of STATES.
    """

    back: int
    kind: str
    value: str

    def __str__(self) -> str:
        if self.kind in ("class", "state"):
            return self.value
        mark = "'" if '"' in self.value and "'" not in self.value else '"'
        quoted = f"{mark}{self.value}{mark}".replace("\n", "⏎").replace("\t", "⇥")
        quoted = re.sub(" {3,}", lambda run: f"␣×{len(run[0])}", quoted)      # a long gap would read as the end of the name
        cased = self.value.lower() != self.value.upper()
        words = {"is": "{}", "reads": "{} in any case" if cased else "{} with or without space",
                 "begins": "a token that begins with {}", "ends": "a token that ends with {}"}
        return words[self.kind].format(quoted)


@dataclass(frozen=True)
class Pattern:
    """Parts that must all be there; strength: the mean activation where they are, also where the feature is silent."""

    parts: tuple[Part, ...]
    strength: float = 1.0

    def __str__(self) -> str:
        own = [part for part in self.parts if part.back == 0 and part.kind != "state"]
        around = sorted((part for part in self.parts if part.back != 0), key=lambda part: part.back)
        states = [part for part in self.parts if part.kind == "state"]
        said = [str(part) for part in own] or ["any token"]
        return " ".join([*said, *(f"{PLACES[part.back]} {part}" for part in around), *map(str, states)])

    def matches(self, around: Surroundings) -> np.ndarray:
        """Where all parts are there: bool [rows, t]."""
        found = np.ones(around.ids.shape, bool)
        for part in self.parts:
            if part.kind == "state":
                found &= around.state(part.value)
                continue
            member = around.vocabulary.members(part.kind, part.value)
            places = range(1, SHORTLY + 1) if part.back == SHORTLY else (part.back,)
            found &= np.any([member[around.at(back)] for back in places], axis=0)
        return found


@dataclass(frozen=True)
class Rule:
    """Patterns of which one must be there."""

    patterns: tuple[Pattern, ...]

    def __str__(self) -> str:
        return "; or ".join(map(str, self.patterns))

    def matches(self, around: Surroundings) -> np.ndarray:
        """Where the rule says that the feature fires: bool [rows, t]."""
        return self.activations(around) > 0

    def activations(self, around: Surroundings) -> np.ndarray:
        """What the rule expects the feature to be at each token, the strength of the first pattern that is there: [rows, t]."""
        expected = np.zeros(around.ids.shape)
        for pattern in self.patterns:
            expected[(expected == 0) & pattern.matches(around)] = max(pattern.strength, 1e-12)
        return expected

    def tokens(self, vocabulary: Vocabulary) -> np.ndarray:
        """The tokens that the rule is about, those of each pattern's last part that is about a token: bool [size]."""
        found = np.zeros(len(vocabulary) + 1, bool)
        for pattern in self.patterns:
            tokens = [part for part in pattern.parts if part.kind != "state"]
            if tokens:
                last = min(tokens, key=lambda part: part.back)
                found |= vocabulary.members(last.kind, last.value)
        return found[:-1]
