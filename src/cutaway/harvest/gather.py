"""Rows gathered from the memory maps of many shards."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

MADV_RANDOM = 1


def mapped(path: Path, rows: int) -> np.ndarray:
    """A file as a memory map of rows of bytes: uint8 [rows, bytes of a row].

    The map holds no file open, so that a harvest may have more shards than a process may open files.
    """
    size = path.stat().st_size
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    if sys.platform == "linux":
        # Rows are read in random order, so reading ahead would fetch 128 KB for each row from a disk that is not cached.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(whole.data_ptr()), ctypes.c_size_t(size), MADV_RANDOM)
    return whole.numpy().reshape(rows, size // rows)


def gather(index: np.ndarray, shard_tokens: int, row_bytes: int, shard: Callable[[int], np.ndarray]) -> np.ndarray:
    """The rows of some tokens, in their order: index int64 [m] -> uint8 [m, row_bytes].

    All shards but the last hold `shard_tokens`; `shard` gives the rows of one by its number.
    """
    order = np.argsort(index)
    numbers, within = np.divmod(index[order], shard_tokens)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    rows = np.empty((len(index), row_bytes), np.uint8)
    for start, stop in zip(starts, [*starts[1:], len(index)], strict=False):
        rows[order[start:stop]] = np.take(shard(int(numbers[start])), within[start:stop], axis=0)
    return rows
