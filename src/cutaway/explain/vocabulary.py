"""What tokens look like: the sets of tokens that a rule can speak of, by their text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

# Classes of tokens by their text. A space before the token does not count, except where that is the point.
CLASSES: dict[str, str] = {
    "a line break": r"[ \t]*[\r\n]\s*",
    "white space": r"\s+",
    "a number": r"\s*\d+",
    "a capitalised word": r"\s*[A-Z][a-z]+",
    "a word in capitals": r"\s*[A-Z][A-Z_]+",
    "a word in small letters": r"\s*[a-z]+",
    "a word after a space": r" [A-Za-z_]\w*",
    "the rest of a word": r"[A-Za-z_]\w*",
    "an opening bracket": r"\s*\S*[(\[{]",
    "a closing bracket": r"\s*[)\]}]\S*",
    "a quotation mark": r"\s*\S*[\"'`]+\S*",
    "an operator": r"\s*[-+*/%=<>!&|^~@]+",
    "punctuation": r"\s*[^\w\s]+",
}
KINDS: dict[str, Callable[[str, str], bool]] = {
    "is": lambda word, value: word == value,
    "reads": lambda word, value: word.strip().casefold() == value,
    "begins": lambda word, value: word.strip().startswith(value),
    "ends": lambda word, value: word.strip().endswith(value),
    "class": lambda word, value: re.fullmatch(CLASSES[value], word) is not None,
}
AFFIX = 5  # the longest beginning or end of a token that a rule can name


class Vocabulary:
    """The text of every token, and sets of tokens by a pattern of their text.

    A pattern is a kind and a value: `is` (exactly this text), `reads` (this text, whatever its case and the space around
    it), `begins` and `ends` (with this text, space around it left out), `class` (one of CLASSES).
    """

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._members: dict[tuple[str, str], np.ndarray] = {}

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> Vocabulary:
        """The tokens of a tokenizer, each decoded alone."""
        known = min(size, len(tokenizer))
        words = tokenizer.batch_decode([[i] for i in range(known)], clean_up_tokenization_spaces=False)
        return cls([*words, *[""] * (size - known)])

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def bare(self) -> tuple[str, ...]:
        """The text of every token without the space around it."""
        return tuple(word.strip() for word in self.words)

    def members(self, kind: str, value: str) -> np.ndarray:
        """Which tokens are of a pattern: bool [size + 1], whose last entry stands for no token."""
        if (kind, value) not in self._members:
            test = KINDS[kind]
            self._members[kind, value] = np.array([*(test(word, value) for word in self.words), False])
        return self._members[kind, value]

    @cached_property
    def classes(self) -> np.ndarray:
        """Which tokens are of each class: float32 [classes, size]."""
        return np.stack([self.members("class", name)[:-1] for name in CLASSES]).astype(np.float32)

    @cached_property
    def groupings(self) -> list[tuple[str, np.ndarray, list[str]]]:
        """Ways to divide all tokens: a kind, the group of each token (int [size], -1 for none) and the groups' values."""
        found = [("is", *_grouped(self.words)), ("reads", *_grouped([word.casefold() for word in self.bare]))]
        for n in range(AFFIX, 0, -1):
            found.append(("begins", *_grouped([word[:n] if len(word) >= n else "" for word in self.bare])))
            found.append(("ends", *_grouped([word[-n:] if len(word) >= n else "" for word in self.bare])))
        return [grouping for grouping in found if grouping[2]]


def _grouped(texts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The number of each text among the different ones; an empty text has none."""
    places: dict[str, int] = {}
    index = np.array([places.setdefault(text, len(places)) if text else -1 for text in texts], np.int64)
    return index, list(places)
