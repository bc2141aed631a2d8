"""The second half of a build: firings sorted by latent into Parquet, and by position into memory maps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write
from .cut import Corpus, cut, levels
from .journal import Journal
from .layout import KINDS, amount, id_type
from .record import Runs, stable_order

SHARD = 1 << 24     # firings that a shard holds at most, unless a single latent has more
GROUP = 1 << 17     # firings in a row group at least, unless the shard ends


def shards(counts: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Ranges of latents [low, high) with at most `size` firings each."""
    found, low, held = [], 0, 0
    for latent, n in enumerate(counts.tolist()):
        if held and held + n > size:
            found.append((low, latent))
            low, held = latent, 0
        held += n
    return [*found, (low, len(counts))]


def gathered(runs: Runs, low: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (uint32) and activations of the latents low to high, sorted by latent and position, and their begins."""
    # Each chunk has a latent's firings in one piece; where it goes follows from the counts of the chunks before it.
    counts = np.diff(runs.starts[:, low: high + 1].astype(np.int64), axis=1)
    begins = np.concatenate([[0], np.cumsum(counts.sum(0))])
    positions, activations = np.empty(begins[-1], np.uint32), np.empty(begins[-1], np.float32)
    goes = begins[:-1].copy()
    for chunk, own in enumerate(counts):
        a, b = (int(runs.begins[chunk] + runs.starts[chunk, edge]) for edge in (low, high))
        place = np.repeat(goes - (np.cumsum(own) - own), own) + np.arange(b - a)
        positions[place] = runs.places[a:b].astype(np.uint32) + np.uint32(chunk * runs.chunk)
        activations[place] = runs.activations[a:b]
        goes += own
    return positions, activations, begins


def shard(folder: Path, number: int, low: int, high: int, shared: Corpus) -> dict[str, Any]:
    """Write one shard of the sorted part, and beside it the tables cut from its latents."""
    positions, activations, begins = gathered(shared.runs, low, high)
    cuts = []
    quantised = np.empty(len(positions), np.uint8)
    for i, latent in enumerate(range(low, high)):
        own = slice(int(begins[i]), int(begins[i + 1]))
        made = cut(latent, positions[own], activations[own], shared)
        quantised[own] = levels(activations[own], made.summary["offset"], made.summary["scale"])
        cuts.append(made)
    name = f"latents/{number:03}.parquet"
    write(folder / name, lambda part: _write_sorted(part, low, begins, positions, quantised, shared.runs.width))
    for table, rows in _tables(cuts, shared).items():
        write(folder / "build" / f"{table}-{number:03}.parquet", partial(write_table, rows))
    return {"file": name, "first": low, "last": high - 1, "firings": len(positions)}


def _write_sorted(path: Path, low: int, begins: np.ndarray, positions: np.ndarray, quantised: np.ndarray, width: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet
    kind = id_type(width)
    schema = pa.schema([("latent", pa.from_numpy_dtype(kind)), ("position", pa.uint32()), ("level", pa.uint8())])
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=["latent"], data_page_version="2.0",
                               column_encoding={"position": "DELTA_BINARY_PACKED", "level": "PLAIN"}) as file:
        for first, last in _groups(np.diff(begins)):
            own = slice(int(begins[first]), int(begins[last]))
            latents = np.repeat(np.arange(low + first, low + last, dtype=kind), np.diff(begins[first: last + 1]))
            file.write_table(pa.table([latents, positions[own], quantised[own]], schema=schema),
                             row_group_size=max(len(latents), 1))


def _groups(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of latents that fill a row group, so that none is in two."""
    first = held = 0
    for latent, n in enumerate(counts.tolist()):
        held += n
        if held >= GROUP or latent == len(counts) - 1:
            yield first, latent + 1
            first, held = latent + 1, 0


def _tables(cuts: list[Any], shared: Corpus) -> dict[str, dict[str, Any]]:
    """The rows of some latents in the tables, as columns."""
    summary = {name: [made.summary[name] for made in cuts] for name in cuts[0].summary}
    parts = [(made.summary["latent"], part) for made in cuts for part in made.contexts]
    sizes = [len(part[0]) for _, part in parts]

    def column(i: int, dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *(part[i].astype(dtype) for _, part in parts)])
    contexts = {"latent": np.repeat([latent for latent, _ in parts], sizes).astype(np.uint32),
                "kind": np.array(KINDS)[column(0, np.int64)],
                "rank": np.concatenate([np.zeros(0, np.uint16), *(np.arange(n, dtype=np.uint16) for n in sizes)]),
                "position": column(1, np.uint32), "activation": column(2, np.float32), "quantile": column(3, np.float32)}
    sizes = [len(made.peaks[0]) for made in cuts]
    tokens = np.concatenate([made.peaks[0] for made in cuts])
    counts = np.concatenate([made.peaks[1] for made in cuts])
    totals = shared.occurrences[tokens]
    peaks = {"latent": np.repeat([made.summary["latent"] for made in cuts], sizes).astype(np.uint32),
             "rank": np.concatenate([np.arange(n, dtype=np.uint16) for n in sizes]),
             "token": tokens.astype(np.uint32), "count": counts, "total": totals, "share": counts / np.maximum(totals, 1)}
    return {"summary": summary, "contexts": contexts, "peaks": peaks}


def write_table(columns: dict[str, Any], path: Path, group: int = 1 << 14) -> None:
    """Write columns as Parquet in row groups that are small enough for one latent to be found fast."""
    import pyarrow as pa
    from pyarrow import parquet
    parquet.write_table(pa.table(columns), path, compression="zstd", row_group_size=group)


def by_position(folder: Path, journal: Journal, runs: Runs, offset: np.ndarray, scale: np.ndarray) -> None:
    """The firings in the order of the text, latents ascending within a position; filled chunk by chunk.

    offset, scale: float64 [width].
    """
    shapes = {"token_starts": (np.dtype(np.uint64), len(runs.keep) + 1), "token_latents": (id_type(runs.width), runs.n),
              "token_levels": (np.dtype(np.uint8), runs.n)}
    parts = {name: folder / "build" / f"{name}.npy" for name in shapes}
    if "by position" not in journal:
        done = sum(name.startswith("by position ") for name in journal.steps)
        done = done if all(part.exists() for part in parts.values()) else 0
        maps = {name: np.lib.format.open_memmap(parts[name], "r+" if done else "w+", dtype, (n,))
                for name, (dtype, n) in shapes.items()}
        for part in parts.values():
            _reserve(part)
        maps["token_starts"][0] = 0
        for chunk in range(done, len(runs.starts)):
            _fill(chunk, runs, maps, offset, scale)
            for array in maps.values():
                array.flush()
            journal.add(f"by position {chunk}")
        journal.add("by position")
    for part in parts.values():
        if part.exists():
            part.replace(folder / part.name)


def _reserve(path: Path) -> None:
    """Take a file's whole room on the disk at once: a memory map that finds the disk full ends the process without a word."""
    if not hasattr(os, "posix_fallocate"):     # macOS and Windows have none
        return
    room = path.stat().st_size
    try:
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, room)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, f"{amount(room)} are needed for {path.name} and there is no space left on the disk; "
                      "free some and run this again: what was finished before is still there") from error


def _fill(chunk: int, runs: Runs, maps: Mapping[str, np.ndarray], offset: np.ndarray, scale: np.ndarray) -> None:
    own = slice(int(runs.begins[chunk]), int(runs.begins[chunk + 1]))
    places, first = runs.places[own], chunk * runs.chunk
    n = min(runs.chunk, len(runs.keep) - first)
    latents = np.repeat(np.arange(runs.width, dtype=id_type(runs.width)), np.diff(runs.starts[chunk]))
    order = stable_order(places, runs.chunk)
    sorted_latents = latents[order]
    maps["token_latents"][own] = sorted_latents
    maps["token_levels"][own] = levels(runs.activations[own][order], offset[sorted_latents], scale[sorted_latents])
    counts = np.bincount(places, minlength=n)
    maps["token_starts"][first + 1: first + n + 1] = own.start + np.cumsum(counts)
