"""The text of stored tokens, without a tokenizer."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..report.tokens import BROKEN_BYTES, decode


@dataclass(frozen=True)
class Vocabulary:
    """The bytes of each token; special tokens have none in a text, and are called by their own name otherwise."""

    bytes: Sequence[bytes]
    special: frozenset[int]

    @cached_property
    def whole(self) -> list[str | None]:
        """The text of each token that holds whole characters, None for others."""
        found: list[str | None] = []
        for i, raw in enumerate(self.bytes):
            try:
                found.append("" if i in self.special else raw.decode())
            except UnicodeDecodeError:
                found.append(None)
        return found

    @cached_property
    def names(self) -> list[str]:
        """What each token is called."""
        return [self.name(i) for i in range(len(self.bytes))]

    def name(self, token: int) -> str:
        """A token on its own."""
        return decode(self.bytes[token]) if 0 <= token < len(self.bytes) else ""

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The text of each token in a row; joined they are the row's text.

        A character that is spread over several tokens belongs to the last of them; bytes that are part of no whole
        character become ⟨e2⟩.
        """
        tokens = list(tokens)
        whole = [self.whole[token] for token in tokens]
        if None not in whole:
            return whole    # type: ignore[return-value]
        reader = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        found = [reader.decode(b"" if token in self.special else self.bytes[token]) for token in tokens]
        if found:
            found[-1] += reader.decode(b"", final=True)
        return [piece.translate(BROKEN_BYTES) for piece in found]

    def ids(self, text: str) -> list[int]:
        """The tokens that are spelled like this, as they are or by their name."""
        raw = text.encode("utf-8", "replace")
        return [i for i, own in enumerate(self.bytes) if own == raw]

    def find(self, text: str, tokens: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a text stands in joined tokens: the first and the last token of at most `most` places, from the start on."""
        raw = text.encode("utf-8", "replace")
        pieces = [b"" if i in self.special else own for i, own in enumerate(self.bytes)]
        lengths, first, last = np.array([len(piece) for piece in pieces]), list[int](), list[int]()
        step, overlap = 1 << 20, len(raw)
        for start in range(0, len(tokens), step):
            part = np.asarray(tokens[start: start + step + overlap])
            ends, joined = np.cumsum(lengths[part]), b"".join([pieces[token] for token in part.tolist()])
            place = joined.find(raw)
            while place >= 0 and len(first) < most:
                a, b = np.searchsorted(ends, [place, place + len(raw) - 1], side="right")
                if a >= step:
                    break
                first.append(start + int(a))
                last.append(start + int(b))
                place = joined.find(raw, place + 1)
            if len(first) >= most:
                break
        return np.array(first, np.int64), np.array(last, np.int64)
