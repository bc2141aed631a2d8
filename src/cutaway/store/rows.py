"""The stored tokens, by row, as data has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import windows
from .layout import number
from .reading import Files


@dataclass(frozen=True)
class StoredRows:
    """The rows that a store was made from: their tokens and text, as `TokenData` gives them."""

    files: Files

    def __repr__(self) -> str:
        return f"StoredRows({self.name}: {self.n_rows:,} rows)"

    @property
    def name(self) -> str:
        return self.files.manifest["data"]["name"]

    @property
    def fingerprint(self) -> str:
        return self.files.manifest["data"]["fingerprint"]

    @property
    def n_rows(self) -> int:
        return self.files.manifest["n_rows"]

    @property
    def context(self) -> int:
        return self.files.manifest["row_length"]

    def tokens(self, row: int) -> np.ndarray:
        """The token ids of a row: int64 [context]."""
        row = number(row, self.n_rows, "this store has the rows")
        return np.asarray(self.files.tokens[row * self.context: (row + 1) * self.context]).astype(np.int64)

    def pieces(self, row: int, lo: int = 0, hi: int | None = None) -> list[str]:
        """The text of each token from lo to hi (not included)."""
        self.tokens(row)
        lo, hi, _ = slice(lo, hi).indices(self.context)
        return windows.text(self.files, row, lo, max(lo, hi))

    def text(self, row: int, lo: int = 0, hi: int | None = None) -> str:
        """The text of tokens lo to hi (not included)."""
        return "".join(self.pieces(row, lo, hi))
