"""Rows of tokens, read from a memory map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import Inputs
from .cache import Stream
from .masked import hide
from .packing import Layout
from .rows import Rows


def _with_attention(ids: Tensor) -> Inputs:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


INPUTS: dict[str, Callable[[Tensor], Inputs]] = {
    "causal": lambda ids: {"input_ids": ids}, "module": lambda ids: ids,
    "masked": _with_attention, "encoder": _with_attention, "sentence": _with_attention}


@dataclass(frozen=True, eq=False, repr=False)
class TokenData(Rows):
    """Text as rows of tokens: documents are joined, and each row holds the next tokens between its special ones.

    tokenizer: the network's. stream, layout: the joined tokens, and how rows are built from them. keep_special: special
    tokens count like others. seed: which tokens are hidden from a masked language model.
    """

    tokenizer: Any
    stream: Stream
    layout: Layout
    keep_special: bool = False
    seed: int = 0

    @property
    def context(self) -> int:
        """Tokens in a row, special tokens with it."""
        return self.layout.context

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that do not count, such as begin and padding."""
        return () if self.keep_special else tuple(sorted(self.layout.special))

    @property
    def row_tokens(self) -> int:
        return self.layout.body

    @cached_property
    def documents(self) -> np.ndarray:
        """The number of the document that each row's first token of text belongs to: int64 [n_rows]."""
        return np.searchsorted(self.stream.starts, self.index * self.layout.body, side="right") - 1

    def tokens(self, row: int) -> np.ndarray:
        """The token ids of a row, special tokens with them and nothing hidden: int64 [context]."""
        self._check(row)
        return self._ids(self.index[[row]])[0]

    def text(self, row: int, lo: int = 0, hi: int | None = None) -> str:
        """The text of tokens lo to hi (not included) of a row, without special tokens.

        The texts of two spans side by side, joined, are the text of both: a character that is spread over several
        tokens belongs to the last of them.
        """
        ids, (lo, hi, _) = self.tokens(row), slice(lo, hi).indices(self.context)
        return self._until(ids, max(lo, hi))[len(self._until(ids, lo)):]

    def pieces(self, row: int, lo: int = 0, hi: int | None = None) -> list[str]:
        """The text of each token from lo to hi (not included); joined they are `text`, and special tokens have none."""
        ids, (lo, hi, _) = self.tokens(row), slice(lo, hi).indices(self.context)
        return [to[len(so_far):] for so_far, to in pairwise(self._until(ids, n) for n in range(lo, hi + 1))]

    def _until(self, ids: np.ndarray, n: int) -> str:
        """The text of the first n tokens, without a last character of which only some bytes are there."""
        # Tokens are decoded from the row's start, because one token alone may be part of a character or lose its space.
        text = self.tokenizer.decode(ids[:n].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if n == len(ids) else text.rstrip("\ufffd")

    def _ids(self, whole: np.ndarray) -> np.ndarray:
        body = self.layout.body
        return self.layout.rows(self.stream.tokens[whole[:, None] * body + np.arange(body)])

    def _read(self, whole: np.ndarray) -> tuple[Inputs, Tensor | None, Tensor | None]:
        ids = self._ids(whole)
        known = self.layout.vocabulary
        if known is not None and ids.max() >= known:
            raise ValueError(f"{self.name} holds the token {ids.max()}, but the network's vocabulary has {known}; its "
                             "tokenizer belongs to another network.")
        keep = np.ones(ids.shape, bool) if self.keep_special else ~np.isin(ids, self.layout.special)
        labels = None
        if self.layout.mask is not None:
            ids, hidden = hide(ids, keep, whole, self.layout.mask, self.seed)
            labels = torch.from_numpy(hidden)
        return INPUTS[self.layout.kind](torch.from_numpy(ids)), torch.from_numpy(keep), labels

    def _identity(self) -> str:
        return repr((self.stream.key, self.layout, self.keep_special, self.seed))
