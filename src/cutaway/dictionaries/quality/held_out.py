"""Evaluation on text that the dictionary was not trained on, by a hash of each document."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np


def digests(data: Any, documents: np.ndarray) -> list[bytes]:
    """A hash of the tokens of some documents of text."""
    starts, tokens = data.stream.starts, data.stream.tokens
    ends = np.append(starts[1:], len(tokens))
    return [hashlib.blake2b(np.asarray(tokens[starts[i]: ends[i]], np.int64).tobytes(), digest_size=16).digest()
            for i in documents.tolist()]


def documents_in(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last document in each row."""
    first = data.index * data.layout.body
    return tuple(np.searchsorted(data.stream.starts, place, side="right") - 1
                 for place in (first, first + data.layout.body - 1))


def held_out(data: Any, trained_on: Any) -> tuple[Any, str]:
    """The rows of data none of whose documents is in the training data, and a sentence about what was left out.

    Raises ValueError when nothing is left. Where either is not text, nothing can be compared, and the sentence says so.
    """
    if not hasattr(data, "stream") or not hasattr(trained_on, "stream"):
        return data, "whether the dictionary was trained on this data is not known"
    low, high = documents_in(trained_on)
    # Every document from the first to the last of a row was seen, as the rows are without gaps inside.
    seen = set(digests(trained_on, np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]))))
    first, last = documents_in(data)
    own = np.arange(first.min(), last.max() + 1)
    known = np.array([digest in seen for digest in digests(data, own)])
    shared = np.append(0, np.cumsum(known))
    free = shared[last + 1 - own[0]] - shared[first - own[0]] == 0
    if not free.any():
        raise ValueError(f"every document of {data.name} is in {trained_on.name}, which the dictionary was trained on; figures "
                         "need text that it has not seen, such as another split or other files.")
    said = f"no document is in the training data ({len(own) - known.sum()} documents"
    said += f"; rows with {known.sum()} that are were left out)" if known.any() else ")"
    return replace(data, index=data.index[free]), said
