"""Tokens that make up one word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def word_groups(pieces: Sequence[Sequence[str]], keep: Tensor) -> Tensor:
    """The number of the word that each token belongs to: int64 [rows, tokens], counted from 0 in each row.

    pieces: the text of each token, spaces included. A token goes on with a word when no space stands between the two and
    letters, digits or underscores meet; what does not count (keep is False) is a word of its own.
    """
    groups = torch.zeros(keep.shape, dtype=torch.int64)
    for i, row in enumerate(pieces):
        for j in range(1, len(row)):
            before, here = row[j - 1], row[j]
            joined = _wordly(before[-1:]) and _wordly(here[:1]) and bool(keep[i, j - 1]) and bool(keep[i, j])
            # The bytes of one character that is spread over several tokens have no text of their own.
            unfinished = not before or not here or before.endswith("⟩") and here.startswith("⟨")
            groups[i, j] = groups[i, j - 1] + (not (joined or (unfinished and bool(keep[i, j - 1] & keep[i, j]))))
    return groups


def _wordly(character: str) -> bool:
    return character.isalnum() or character == "_"


def word_texts(pieces: Sequence[Sequence[str]], groups: Tensor) -> list[list[str]]:
    """The text of each word of each row."""
    texts = []
    for row, numbers in zip(pieces, groups.tolist(), strict=True):
        words = [""] * (max(numbers) + 1)
        for piece, number in zip(row, numbers, strict=True):
            words[number] += piece
        texts.append(words)
    return texts


def merged(values: Tensor, groups: Tensor, n: int) -> Tensor:
    """Values of tokens [rows, tokens] summed within words: [rows, n]."""
    return values.new_zeros(len(values), n).scatter_add(1, groups.to(values.device), values)
