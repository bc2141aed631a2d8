"""Who says whether a name fits a text: the name's own rule, or a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from . import prompts
from .endpoint import Endpoint
from .guess import Guess
from .rules import Rule
from .text import Text
from .windows import Unmeasurable, Window


class Judge(Protocol):
    """Answers about windows, in order; None where an answer could not be read."""

    def contains(self, guess: Guess, windows: Sequence[Window]) -> list[float | None]:
        """Whether the feature of a name fires anywhere in each window: 1 or 0."""
        ...

    def marked(self, guess: Guess, windows: Sequence[Window], marks: Sequence[np.ndarray]) -> list[float | None]:
        """Whether the marked tokens of each window are those at which it fires: 1 or 0."""
        ...

    def simulate(self, guess: Guess, windows: Sequence[Window]) -> list[np.ndarray | None]:
        """How strongly it fires at each token of each window: [length]."""
        ...


@dataclass(frozen=True)
class ByRule:
    """The rule behind a name judges for it: the same answers for everybody, without a network or an endpoint.

    It sees what the network saw: a window with the row of text before it.
    """

    text: Text

    def contains(self, guess: Guess, windows: Sequence[Window]) -> list[float | None]:
        return [float(hits.any()) for hits in self._matches(guess, windows)]

    def marked(self, guess: Guess, windows: Sequence[Window], marks: Sequence[np.ndarray]) -> list[float | None]:
        return [float(hits[mark].mean() >= 0.5) for hits, mark in zip(self._matches(guess, windows), marks, strict=True)]

    def simulate(self, guess: Guess, windows: Sequence[Window]) -> list[np.ndarray | None]:
        return list(self._activations(guess, windows))

    def _matches(self, guess: Guess, windows: Sequence[Window]) -> np.ndarray:
        return self._activations(guess, windows) > 0

    def _activations(self, guess: Guess, windows: Sequence[Window]) -> np.ndarray:
        rows, which = np.unique([window.row for window in windows], return_inverse=True)
        expected = _rule(guess).activations(self.text.around.rows(rows))
        return np.stack([expected[i, w.start: w.start + len(w.ids)] for i, w in zip(which, windows, strict=True)])


@dataclass(frozen=True)
class ByModel:
    """A language model judges by a name's words; several windows are asked about in one request."""

    endpoint: Endpoint
    at_once: int = 5

    def contains(self, guess: Guess, windows: Sequence[Window]) -> list[float | None]:
        return self._flags(prompts.DETECT, guess, [str(window) for window in windows])

    def marked(self, guess: Guess, windows: Sequence[Window], marks: Sequence[np.ndarray]) -> list[float | None]:
        return self._flags(prompts.MARKED, guess, [w.marked(m) for w, m in zip(windows, marks, strict=True)])

    def simulate(self, guess: Guess, windows: Sequence[Window]) -> list[np.ndarray | None]:
        found = [self._numbers(prompts.SIMULATE, prompts.simulating(guess.text, w), len(w.ids), 10) for w in windows]
        return [None if numbers is None else np.array(numbers, float) for numbers in found]

    def _flags(self, system: str, guess: Guess, texts: Sequence[str]) -> list[float | None]:
        found: list[float | None] = []
        for start in range(0, len(texts), self.at_once):
            part = texts[start: start + self.at_once]
            numbers = self._numbers(system, prompts.judging(guess.text, part), len(part), 1)
            found += [None] * len(part) if numbers is None else map(float, numbers)
        return found

    def _numbers(self, system: str, user: str, n: int, largest: int) -> list[int] | None:
        answer = self.endpoint.ask(system, user)
        numbers = prompts.read_list(answer, n, largest)
        if numbers is None:
            self.endpoint.unreadable(answer, f"a list of {n} numbers from 0 to {largest}")
        return numbers


def _rule(guess: Guess) -> Rule:
    if guess.rule is None:
        raise Unmeasurable("the name has no rule that could judge for it; give a language model as judge")
    return guess.rule
