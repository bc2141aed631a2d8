"""Data that is read by rows: orders, parts and batches, the same for text, images and arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ..counts import count_of
from .batch import Batch, Inputs


class Data(Protocol):
    """What everything that reads data relies on; `TokenData`, `ImageData` and `ArrayData` are such."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    def batches(self, batch_size: int = 16, start: int = 0, stop: int | None = None,
                seed: int | None = None) -> Iterator[Batch]: ...
    def rows(self, index: Any) -> Batch: ...
    def split(self, share: float = 0.1, seed: int = 0) -> tuple[Data, Data]: ...
    def take(self, tokens: int | float | str) -> Data: ...


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """What all data has in common.

    name: what figures call it.
    index: int64 [n_rows], the numbers of these rows in the whole. All other row numbers, also those in a `Batch`, count
        the rows of this very data from 0.
    """

    name: str
    index: np.ndarray

    def _read(self, whole: np.ndarray) -> tuple[Inputs, Tensor | None, Tensor | None]:
        """Inputs, keep and labels of some rows, by their numbers in the whole."""
        raise NotImplementedError

    def _identity(self) -> str:
        """A text that differs for data whose rows differ, whatever part of the rows is chosen."""
        raise NotImplementedError

    @property
    def row_tokens(self) -> int:
        """How many tokens a row counts for."""
        return 1

    @property
    def n_rows(self) -> int:
        return len(self.index)

    @property
    def n_tokens(self) -> int:
        """Tokens in one pass, without those that open and close a row; images and arrays count 1 a row."""
        return self.n_rows * self.row_tokens

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the content, with the way it is read and with the chosen rows."""
        state = hashlib.sha256(self._identity().encode())
        state.update(np.ascontiguousarray(self.index, np.int64).tobytes())
        return state.hexdigest()[:16]

    def _check(self, row: int) -> None:
        if not 0 <= row < self.n_rows:
            raise IndexError(f"{self.name} has the rows 0 to {self.n_rows - 1}; row {row} was asked for.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}: {self.n_rows:,} rows)"

    def rows(self, index: Any) -> Batch:
        """These rows as one batch: a number, a list, an array or a tensor of numbers, or a slice."""
        index = np.arange(self.n_rows)[index] if isinstance(index, slice) else np.asarray(index, np.int64).reshape(-1)
        if len(index) == 0:
            raise ValueError(f"no rows of {self.name} were asked for; give at least one.")
        self._check(index.min() if index.min() < 0 else index.max())
        inputs, keep, labels = self._read(self.index[index])
        return Batch(inputs, keep, labels, torch.from_numpy(index.copy()))

    def batches(self, batch_size: int = 16, start: int = 0, stop: int | None = None,
                seed: int | None = None) -> Iterator[Batch]:
        """The rows in order, or in the order of a permutation of all rows by `seed`, batch after batch.

        start, stop: count rows of that order, so that a reader goes on where it stopped; the last batch may be smaller.
        """
        if batch_size < 1 or start < 0:
            raise ValueError("batches need a batch_size of at least 1 and a start of at least 0; "
                             f"found {batch_size} and {start}.")
        order = np.arange(self.n_rows) if seed is None else np.random.default_rng(seed).permutation(self.n_rows)
        order = order[start:stop]
        return (self.rows(order[i: i + batch_size]) for i in range(0, len(order), batch_size))

    def split(self, share: float = 0.1, seed: int = 0) -> tuple[Self, Self]:
        """The data in two, the second with a random `share` of the rows, for validation; both keep the rows' order.

        Neighbouring rows can be of one document, also on two sides of the split.
        """
        n = round(share * self.n_rows)
        if not 0 < share < 1 or not 0 < n < self.n_rows:
            raise ValueError(f"{self.name} has {self.n_rows} rows, of which a share of {share} leaves one side empty; "
                             "give a share between 0 and 1, or more data.")
        chosen = np.zeros(self.n_rows, bool)
        chosen[np.random.default_rng(seed).permutation(self.n_rows)[:n]] = True
        return (replace(self, name=f"{self.name} (training)", index=self.index[~chosen]),
                replace(self, name=f"{self.name} (validation)", index=self.index[chosen]))

    def take(self, tokens: int | float | str) -> Self:
        """The first `tokens` tokens, such as 10_000 or "10k", in whole rows, the last one counted as whole; all rows where
        there are fewer.
        """
        n = count_of(tokens)
        if n < 1:
            raise ValueError(f"at least 1 token must be taken from {self.name}; found {tokens}.")
        return replace(self, index=self.index[: -(-n // self.row_tokens)])


def as_data(data: Any) -> Any:
    """Data that can be read by rows, as it is; anything else is refused with words."""
    if not hasattr(data, "batches"):
        raise ValueError(f"data is what cw.text, cw.stdlib, cw.corpus, cw.images or cw.arrays gives; found a "
                         f"{type(data).__name__}.")
    return data


def row_numbers(n: int, name: str) -> np.ndarray:
    """The numbers of all rows; data without rows is refused here."""
    if n == 0:
        raise ValueError(f"{name} holds no rows, so there is nothing to read; give data that is not empty.")
    return np.arange(n)
