"""What a store's folder holds, and the checks that every reader of it makes.

    manifest.json              schema, identity of network, dictionary and data, counts, shards, size and checksum of each file
    latents/000.parquet        latent, position, level: every firing, sorted by latent and then by position
    token_starts.npy           uint64 [positions + 1]: where the firings of each position begin in the two files below
    token_latents.npy          uint16 or uint32 [firings]: which latents fire, in the order of the text
    token_levels.npy           uint8 [firings]: how strongly; activation = offset + scale * level, with the latent's own two
    tokens.npy                 uint16 or uint32 [positions]: token ids
    kept.npy                   bool [positions]: which positions count (no special tokens, no attention sinks)
    documents.npy              uint32 [positions]: the number of the document
    summary.parquet            a row for each latent: statistics, scale and offset, histograms; where several sites are written,
                               the share of its decoder at each
    contexts.parquet           latent, kind, rank, position, activation, quantile: chosen in advance
    peaks.parquet              latent, rank, token, count, total, share: the tokens at which it fires
    neighbours.parquet         latent, kind, rank, other, value, count, lift
    logits.parquet             latent, sign, rank, token, value
    logit_histograms.parquet   latent, low, high, counts
    vocabulary.parquet         token, bytes, special
    dictionary.safetensors     the dictionary itself
    notes.sqlite               labels, notes, tags and names
    profile.json               figures of the dictionary with their floors and ceilings, where they were measured

Only the last two are ever written again.

A position counts all places of all rows: position = row * row_length + place in the row.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1
KINDS = ("top", "quantiles", "random", "near-miss")
BINS, PLACES, LEVELS = 50, 16, 255    # bins of activations, bins of places in a row, levels of a quantised activation
DENSE, RARE = 0.1, 1e-6               # latents that fire for a greater share of tokens, or for a smaller one
SHARE = "share at "                   # before a site, of columns of the summary: that site's share of a latent's decoder norms
REMEDY = "build it again with `cutaway store`"


def digest(path: Path) -> str:
    """The checksum of a file, read in pieces: 32 hexadecimal digits of BLAKE2b."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            state.update(piece)
    return state.hexdigest()


def amount(n: float) -> str:
    """Bytes, in words."""
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"


def number(value: Any, n: int, there: str) -> int:
    """A whole number from 0 to n - 1, checked; there: what has these numbers, in words."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n:
        raise IndexError(f"{there} 0 to {n - 1}; found {value!r}.")
    return value


def id_type(n: int) -> np.dtype:
    """The smallest type of whole numbers below n that a store uses."""
    if n > 2**32:
        raise ValueError(f"a store counts up to {2**32:,} positions, tokens and latents; found {n:,}. Make several stores.")
    return np.dtype(np.uint16 if n <= 2**16 else np.uint32)


def described(folder: Path, files: list[Path]) -> dict[str, dict[str, Any]]:
    """Size and checksum of files, by their names in the folder."""
    return {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "blake2b": digest(path)} for path in files}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a finished store, after checks of its schema and of the size of each file."""
    folder = Path(folder)
    path = folder / "manifest.json"
    if not path.exists():
        if (folder / "build" / "building.json").exists():
            raise FileNotFoundError(f"the store in {folder} is not finished; run the command that builds it again and it goes "
                                    "on where it stopped.")
        raise FileNotFoundError(f"there is no store in {folder}; `cutaway store RUN` makes one.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, files = int(manifest["schema"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of a store, or was damaged ({type(error).__name__}); {REMEDY}.") from error
    if schema > SCHEMA:
        raise ValueError(f"the store in {folder} has schema {schema}; this version of Cutaway reads up to {SCHEMA}. "
                         "Update Cutaway, or build the store again.")
    for name, facts in files.items():
        if wrong := _size_of(folder / name, facts):
            raise ValueError(f"{wrong}; {REMEDY}.")
    return manifest


def _size_of(path: Path, facts: dict[str, Any]) -> str | None:
    """A sentence about a file that is missing or not as long as the manifest says."""
    if not path.exists():
        return f"{path} is missing from the store"
    found = path.stat().st_size
    return None if found == facts["bytes"] else f"{path} should hold {facts['bytes']:,} bytes and holds {found:,}"


def damage(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """A sentence for each file that is missing, cut short, or does not have the checksum that the manifest states."""
    found = []
    for name, facts in manifest["files"].items():
        path = folder / name
        wrong = _size_of(path, facts)
        if wrong is None and digest(path) != facts["blake2b"]:
            wrong = f"{path} has been changed: its checksum is not the one in the manifest"
        found += [f"{wrong}; {REMEDY}."] if wrong else []
    return found
