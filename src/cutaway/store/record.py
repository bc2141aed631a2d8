"""The first half of a build: codes are written as they come, each chunk sorted by latent.

Everything is appended to a few files, and a journal says how long they are after each chunk. Whatever a killed process
had written beyond that is cut off by the next one, which goes on with the next row.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .coded import Coded, Source
from .journal import Journal, append, cut_back
from .layout import amount, id_type

FIRING, POSITION = 6 + 5 + 3, 7 + 8 + 7    # bytes of a firing and of a position in working files and in the store together


@dataclass(frozen=True)
class Runs:
    """What the first half left, as memory maps.

    places, activations: [firings], chunk after chunk, each sorted by latent and then by place in the chunk.
    starts: [chunks, width + 1] where each latent begins in its chunk; begins: [chunks + 1] where each chunk begins.
    keep, documents, tokens: [positions]; tokens is None for data without them.
    """

    places: np.ndarray
    activations: np.ndarray
    starts: np.ndarray
    begins: np.ndarray
    keep: np.ndarray
    documents: np.ndarray
    tokens: np.ndarray | None
    chunk: int

    @property
    def width(self) -> int:
        return self.starts.shape[1] - 1

    @property
    def n(self) -> int:
        """Firings."""
        return int(self.begins[-1])

    @property
    def counts(self) -> np.ndarray:
        """Firings of each latent: int64 [width]."""
        total = np.zeros(self.width, np.int64)
        for starts in self.starts:
            total += np.diff(starts.astype(np.int64))
        return total


def types(source: Source) -> dict[str, np.dtype]:
    """The append-only files and their types."""
    return {"places": id_type(source.chunk_rows * source.row_length), "activations": np.dtype(np.float32),
            "starts": np.dtype(np.uint32), "keep": np.dtype(bool), "documents": np.dtype(np.uint32),
            "tokens": id_type(max(source.n_vocabulary, 1))}


def record(folder: Path, journal: Journal, source: Source, progress: bool) -> Runs:
    """Write the codes of all rows that are not there yet, and open the result."""
    files = {name: folder / f"{name}.bin" for name in types(source)}
    chunks = [step for name, step in journal.steps.items() if name.startswith("chunk ")]
    last: dict[str, Any] = chunks[-1] if chunks else {"rows": 0, "sizes": {}}
    cut_back(files.values(), last["sizes"])
    rows = int(last["rows"])
    if rows < source.n_rows:
        with tqdm(total=source.n_rows, initial=rows, desc="what fires where", unit="row", leave=False,
                  disable=None if progress else True) as bar:
            for i, coded in enumerate(source.chunks(rows), start=len(chunks)):
                arrays = _sorted(coded, source.identity["dictionary"]["width"])
                sizes = {files[name].name: append(files[name], array.astype(types(source)[name], copy=False))
                         for name, array in arrays.items()}
                rows += len(coded.keep)
                journal.add(f"chunk {i}", rows=rows, firings=len(coded.latents), kept=int(coded.keep.sum()), sizes=sizes)
                bar.update(len(coded.keep))
                _room(folder, journal, source, rows)
    if rows != source.n_rows:
        raise ValueError(f"the data was said to have {source.n_rows} rows and gave {rows}.")
    return opened(folder, journal, source)


def _room(folder: Path, journal: Journal, source: Source, rows: int) -> None:
    """Refuse to go on where the disk has too little room for the rest, as far as the rows so far tell."""
    firings = sum(step["firings"] for name, step in journal.steps.items() if name.startswith("chunk "))
    whole, held = firings / rows * source.n_rows, sum(path.stat().st_size for path in folder.glob("*.bin"))
    needed = whole * FIRING + source.n_rows * source.row_length * POSITION - held
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"about {amount(needed)} more are needed to build the store in {folder.parent}, and "
                      f"{amount(free)} are free; free some and run this again, or take fewer tokens: what was written "
                      "is kept")


def _sorted(coded: Coded, width: int) -> dict[str, np.ndarray]:
    """A chunk as it is written."""
    if len(coded.latents) and not 0 <= coded.latents.min() <= coded.latents.max() < width:
        raise ValueError(f"the codes name latents {coded.latents.min()} to {coded.latents.max()}, but the dictionary has "
                         f"0 to {width - 1}.")
    order = stable_order(coded.latents, width)
    counts = np.bincount(coded.latents, minlength=width)
    arrays = {"places": coded.places[order], "activations": coded.activations[order],
              "starts": np.concatenate([[0], np.cumsum(counts)]), "keep": coded.keep.ravel(),
              "documents": coded.documents.ravel()}
    if coded.tokens is not None:
        arrays["tokens"] = coded.tokens.ravel()
    return arrays


def stable_order(keys: np.ndarray, n: int) -> np.ndarray:
    """A stable argsort of whole numbers below n; by 16 bits at a time, for which numpy counts instead of comparing."""
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    if n > 2**16:
        order = order[np.argsort((keys[order] >> 16).astype(np.uint16), kind="stable")]
    return order


def opened(folder: Path, journal: Journal, source: Source) -> Runs:
    """The files of the first half, as memory maps."""
    steps = [step for name, step in journal.steps.items() if name.startswith("chunk ")]
    begins = np.concatenate([[0], np.cumsum([step["firings"] for step in steps])]).astype(np.int64)
    kinds = types(source)

    def read(name: str) -> np.ndarray:
        path = folder / f"{name}.bin"
        if not path.exists() or path.stat().st_size == 0:
            return np.zeros(0, kinds[name])
        return np.memmap(path, kinds[name], "r")
    width = source.identity["dictionary"]["width"]
    tokens = read("tokens")
    return Runs(read("places"), read("activations"), read("starts").reshape(-1, width + 1), begins, read("keep"),
                read("documents"), tokens if len(tokens) else None, source.chunk_rows * source.row_length)
