"""Tokens on disk: text is tokenized once and read from a memory map afterwards.

The folder is `tokens` in `$CUTAWAY_CACHE`, or in ~/.cache/cutaway. A file's name is a hash of the text's content, the
tokenizer and the tokens between documents: rows of any context come from the same file, all other changes make another.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm.auto import tqdm

from .. import files
from .packing import Layout, Part, tokenized, tokenizer_digest
from .sources import Source

FORMAT = "cutaway tokens 1"
DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Stream:
    """The joined tokens of documents.

    tokens: memory map [n], uint16 or uint32; starts: memory map [documents], the place where each document starts.
    """

    key: str
    tokens: np.ndarray
    starts: np.ndarray


def folder() -> Path:
    """Where tokens are kept."""
    return Path(os.environ.get("CUTAWAY_CACHE") or "~/.cache/cutaway").expanduser() / "tokens"


def stream(source: Source, tokenizer: Any, layout: Layout) -> Stream:
    """The tokens of a source, from the cache if they are there, tokenized and written to it otherwise."""
    facts = (FORMAT, source.digest, tokenizer_digest(tokenizer), layout.before, layout.after)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    tokens, starts = folder() / f"{key}.tokens.npy", folder() / f"{key}.starts.npy"
    if _mapped(tokens) is None or _mapped(starts) is None:
        _prepare(folder(), key)
        dtype = np.dtype(np.uint16 if max(tokenizer.get_vocab().values()) < 2**16 else np.uint32)
        parts = _shown(tokenized(source.read(), tokenizer, layout), source.name)
        # The starts are put in place last, so where they are the tokens are too.
        files.write(starts, lambda part_of_starts: files.write(
            tokens, lambda part_of_tokens: _fill(part_of_tokens, part_of_starts, parts, dtype, source)))
    return Stream(key, np.load(tokens, mmap_mode="r"), np.load(starts, mmap_mode="r"))


def _mapped(path: Path) -> np.ndarray | None:
    """The array of a file, or None where there is no such file or it was cut short."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


def _shown(parts: Iterable[Part], name: str) -> Iterator[Part]:
    with tqdm(desc=f"tokenizing {name}", unit=" tokens", unit_scale=True, delay=2, leave=False, disable=None) as bar:
        for part in parts:
            yield part
            bar.update(len(part[0]))


def _fill(tokens: Path, starts: Path, parts: Iterable[Part], dtype: np.dtype, source: Source) -> None:
    dtypes, lengths = (dtype, np.dtype(np.int64)), [0, 0]
    with open(tokens, "wb") as token_file, open(starts, "wb") as start_file:
        written = list(enumerate((token_file, start_file)))
        for i, file in written:
            _header(file, dtypes[i], 0)
        for part in parts:
            for i, file in written:
                _append(file, part[i].astype(dtypes[i]))
                lengths[i] += len(part[i])
        if lengths[0] == 0:
            raise ValueError(f"{source.name} holds no text; give files that are not empty.")
        # numpy leaves room in a header for the first axis to grow, so the header with the length fits in the place.
        for i, file in written:
            file.seek(0)
            _header(file, dtypes[i], lengths[i])


def _header(file: IO[bytes], dtype: np.dtype, n: int) -> None:
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(file, facts)


def _append(file: IO[bytes], array: np.ndarray) -> None:
    file.write(array.tobytes())


def _prepare(folder: Path, key: str) -> None:
    """Make the folder and remove what a killed process left of the same tokens."""
    remedy = "set CUTAWAY_CACHE to a folder that can be written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"the token folder {folder} cannot be made ({error.strerror}); {remedy}") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the token folder {folder} cannot be written; {remedy}.")
    for part in folder.glob(f".{key}.*.part"):
        if part.stat().st_mtime < time.time() - DAY:
            part.unlink(missing_ok=True)
