"""Build a store: one pass over data, then everything is sorted; interrupted at any moment, it goes on where it stopped.

Planned for 100M tokens with 64 latents each, 6.4e9 firings, from what `benchmarks/store_reads.py` measures: 14 GB sorted by
latent, 20 GB by position, 1 GB of tokens and tables, and 39 GB of working files that go when it is finished; an hour of one
core besides the network and the dictionary. Memory is bounded by a chunk (65,536 positions), by a shard (16M firings, or
those of one latent) and by the tables, not by the number of tokens; the exceptions are a few bytes for each row of data.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..dictionaries.logits import has_norm
from ..files import locked, sweep, write, write_json
from . import harvested, tables
from .coded import Source, source_of
from .cut import Corpus, corpus
from .harvested import HarvestedRows
from .identity import identity
from .journal import Journal
from .layout import BINS, SCHEMA, SHARE, described, read_manifest
from .record import Runs, record
from .sort import SHARD, by_position, shard, shards, write_table

if TYPE_CHECKING:
    from ..dictionaries import Dictionary
    from ..network import Network


def build(folder: str | Path, net: Network, dictionary: Dictionary, data: Any, key: str = "", seed: int = 0,
          progress: bool = True) -> Path:
    """Write what fires where on all of some data into a folder, or go on writing it; returns the folder.

    data: rows for the network, or those of a harvest. key: the dictionary's name in its run. seed: of the contexts that are
    drawn at random. A finished store of the same network, dictionary and data is left as it is. Raises ValueError where the
    folder holds another one, or where the disk has too little room.
    """
    known = len(net.tokenizer) if net.tokenizer is not None else 0
    size = max(known, getattr(net.config, "vocab_size", 0) or 0) if known else 0
    said = identity(net, dictionary, key or dictionary.site, data, seed)
    source = (harvested.source_of(dictionary, data, said, size) if isinstance(data, HarvestedRows) else
              source_of(net, dictionary, data, said, size))
    return build_from(Path(folder), source, dictionary, net, progress)


def build_from(folder: Path, source: Source, dictionary: Dictionary, net: Network | None = None, progress: bool = True) -> Path:
    """Write a store from codes that come from anywhere; without a network it has no effects on logits and no text."""
    work = folder / "build"
    # A finished store is opened as it is, also where nobody can write.
    with _explained(folder), nullcontext() if (folder / "manifest.json").exists() else locked(folder, "building the store"):
        if (folder / "manifest.json").exists():
            _same(folder, read_manifest(folder), source.identity)
            shutil.rmtree(work, ignore_errors=True)
            return folder
        for place in (folder, folder / "latents"):
            sweep(place, "*")
        _begin(folder, source)
        journal, clock = Journal(work / "journal.jsonl"), _Clock()
        runs = record(work, journal, source, progress)
        clock.lap("codes")
        shared = corpus(runs, source.row_length, source.n_vocabulary, source.identity["seed"])
        ranges = shards(runs.counts, SHARD)
        for i, (low, high) in enumerate(tqdm(ranges, desc="sorting", leave=False, disable=None if progress else True)):
            journal.once(f"shard {i}", partial(_shard, folder, i, low, high, shared))
        clock.lap("sorting")
        summary = _merge(folder, "summary", len(ranges), _of_weights(dictionary))
        offset, scale = (np.asarray(summary[name], np.float64) for name in ("offset", "scale"))
        by_position(folder, journal, runs, offset, scale)
        clock.lap("by position")
        said = _tables(folder, runs, len(ranges), source, dictionary, net)
        clock.lap("tables")
        write_json(folder / "manifest.json", {
            "format": "cutaway store", "schema": SCHEMA, **source.identity, "wiring": _wiring(dictionary), **said,
            "n_rows": source.n_rows,
            "row_length": source.row_length, "n_tokens": shared.n_tokens, "n_entries": runs.n,
            "n_documents": int(runs.documents.max()) + 1 if len(runs.documents) else 0, "has_text": runs.tokens is not None,
            **_files(folder, [journal.steps[f"shard {i}"] for i in range(len(ranges))]),
            "seconds": clock.laps, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {name: version(name) for name in ("cutaway", "torch", "numpy", "pyarrow")}})
        shutil.rmtree(work, ignore_errors=True)
    return folder


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what it means for the store that a file in its folder cannot be written."""
    try:
        yield
    except OSError as error:
        place = folder if error.filename is None else Path(error.filename)
        if error.errno is None or error.strerror != os.strerror(error.errno) or not (
                place in (folder, *folder.parents) or folder in place.parents):
            raise     # it says all by itself, or is about something that is read
        raise OSError(error.errno, f"the store in {folder} cannot be written ({error.strerror}); free some room there, or give "
                      "another folder, and run this again: what was finished before is still there") from error


def _files(folder: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest says of shards and files; the checksums of shards are known since they were written."""
    others = [path for ending in ("npy", "parquet", "safetensors") for path in sorted(folder.glob(f"*.{ending}"))]
    return {"shards": [{name: step[name] for name in ("file", "first", "last", "firings")} for step in steps],
            "files": {**described(folder, others),
                      **{step["file"]: {name: step[name] for name in ("bytes", "blake2b")} for step in steps}}}


class _Clock:
    """Seconds that the parts of a build took in this process."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


def _same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to mix two stores in a folder."""
    names = {"network": "another network", "dictionary": "another dictionary", "data": "other data", "seed": "another seed"}
    changed = [said for name, said in names.items() if found.get(name) != wanted[name]]
    if changed:
        raise ValueError(f"{folder} holds a store of {' and '.join(changed)}; give another folder, or remove it.")


def _begin(folder: Path, source: Source) -> None:
    """Say what is being built, or check that it is what an earlier process began."""
    path = folder / "build" / "building.json"
    wanted = {**source.identity, "schema": SCHEMA, "chunk_rows": source.chunk_rows}
    if not path.exists():
        write_json(path, wanted)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    _same(folder, found, source.identity)
    if found != json.loads(json.dumps(wanted)):
        raise ValueError(f"{folder} holds a build that another version of Cutaway began; remove {path.parent} to begin again.")


def _shard(folder: Path, number: int, low: int, high: int, shared: Corpus) -> dict[str, Any]:
    made = shard(folder, number, low, high, shared)
    return {**made, **described(folder, [folder / made["file"]])[made["file"]]}


def _wiring(dictionary: Dictionary) -> dict[str, Any]:
    """Where the dictionary lies, for readers without its weights."""
    return {"kind": dictionary.kind, "reads": list(dictionary.reads), "writes": list(dictionary.writes)}


def _of_weights(dictionary: Dictionary) -> dict[str, np.ndarray]:
    """What the summary says of each latent's weights: of several sites that are written, also each one's share of its row."""
    import torch
    encoder, decoder, units = (x.detach().float().cpu() for x in (dictionary.W_enc, dictionary.W_dec, dictionary.units()))
    # What reads one tensor and writes another has no angle between the two.
    cosine = torch.nn.functional.cosine_similarity(encoder * units, decoder / units, dim=1) if (
        dictionary.reads == dictionary.writes) else torch.full((len(decoder),), torch.nan)
    found = {"decoder_norm": decoder.norm(dim=1).numpy(), "encoder_bias": dictionary.b_enc.detach().float().cpu().numpy(),
             "cosine": cosine.numpy()}
    if len(dictionary.writes) > 1:
        shares = tables.shares(dictionary)
        found |= {f"{SHARE}{site}": shares[:, j] for j, site in enumerate(dictionary.writes)}
    return found


def _merge(folder: Path, table: str, n: int, more: dict[str, np.ndarray] | None = None) -> Any:
    """Put the parts of a table, one from each shard, into one file; `more` adds columns."""
    import pyarrow as pa
    from pyarrow import parquet
    whole = pa.concat_tables([parquet.read_table(folder / "build" / f"{table}-{i:03}.parquet") for i in range(n)])
    for name, column in (more or {}).items():
        whole = whole.append_column(name, pa.array(column))
    if "square" in whole.column_names:
        energy = whole["square"].to_numpy() * whole["decoder_norm"].to_numpy().astype(np.float64) ** 2
        whole = whole.append_column("energy", pa.array(energy / max(energy.sum(), 1e-300))).drop_columns(["square"])
    write(folder / f"{table}.parquet", partial(parquet.write_table, whole, compression="zstd", row_group_size=1 << 14))
    return whole


def _tables(folder: Path, runs: Runs, n_shards: int, source: Source, dictionary: Dictionary,
            net: Network | None) -> dict[str, Any]:
    """Everything that is not a firing; returns what the manifest says about it."""
    for table in ("contexts", "peaks"):
        _merge(folder, table, n_shards)
    for name, array in (("kept", runs.keep), ("documents", runs.documents), ("tokens", runs.tokens)):
        if array is not None:
            write(folder / f"{name}.npy", partial(_save, array))
    starts, latents = (np.load(folder / f"token_{name}.npy", mmap_mode="r") for name in ("starts", "latents"))
    near = tables.nearest((dictionary.W_dec / dictionary.units()).detach().cpu())
    together, sampled = tables.together(starts, latents, runs.keep, runs.width, source.row_length)
    neighbours = {name: np.concatenate([near[name], together[name]]) for name in near}
    order = np.lexsort((neighbours["rank"], neighbours["kind"], neighbours["latent"]))
    _write(folder, "neighbours", {name: column[order] for name, column in neighbours.items()})
    said: dict[str, Any] = {"coactivation_tokens": sampled, "effects": None, "no_effects": "the data has no text"}
    if net is not None and runs.tokens is not None:
        words, known = tables.vocabulary(net.tokenizer, source.n_vocabulary), min(len(net.tokenizer), source.n_vocabulary)
        _write(folder, "vocabulary", words)
        try:
            effects, shapes, site = tables.logits(net, dictionary, known, BINS)
            _write(folder, "logits", effects)
            _write(folder, "logit_histograms", shapes)
            said |= {"effects": {"vocabulary": known, "final_norm": has_norm(net, site), "site": site}, "no_effects": ""}
        except ValueError as error:
            said["no_effects"] = str(error)
    dictionary.save(folder / "dictionary.safetensors")
    return said


def _save(array: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array)


def _write(folder: Path, name: str, columns: dict[str, Any]) -> None:
    write(folder / f"{name}.parquet", partial(write_table, columns))
