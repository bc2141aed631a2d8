"""Write a harvest: one pass of the network for all sites, shard by shard, in a way that may be killed at any moment."""

from __future__ import annotations

import errno
import itertools
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..counts import count_of
from ..data import below, norm_limit
from ..files import locked, sweep, write_safetensors
from ..network import Network, Site
from ..network.fingerprint import fingerprint
from ..observe import activations
from .codecs import CODECS, Calibration, calibrate, codec_of
from .layout import (
    CALIBRATION,
    MANIFEST,
    SHARDS,
    STATISTICS,
    TOKEN,
    Facts,
    Manifest,
    Shard,
    described,
    is_whole,
    read_manifest,
    shard_folder,
)
from .read import Harvest, read_calibrations
from .shard import PART, write_shard
from .statistics import summed_up
from .stream import Stream, piece_of

SAMPLE = 2048           # activations from which a site's calibration is taken
MARGIN = 256 * 2**20    # bytes that stay free on the disk, and 2% of what is written


def harvest(net: Network, data: Any, sites: str | Site | Iterable[str | Site], out: str | Path,
            tokens: int | str | None = None, dtype: str = "bfloat16", shard_tokens: int = 65_536, progress: bool = True,
            seed: int = 0, batch_size: int = 16) -> Harvest:
    """Write the activations at some sites to a folder, all from one pass of the network, and return them for reading.

    sites: names, also with wildcards. tokens: how many activations of each site, such as
        500_000 or "2M", or None for all; data that has fewer gives
        what it has. dtype: bfloat16, int8 (with one scale a token) or float32. seed: the order in which the data's rows are
        read, so that the first tokens are a fair sample of all. batch_size: rows a pass.

    Only positions that count are stored (`Seen.kept`); attention sinks are stored too, with the norm of every activation,
    and readers leave them out. The size is estimated first, and a disk with too little room is refused. A harvest that was
    interrupted or killed goes on where it stopped when the same call is made again, and ends with the same bytes as if it
    had not been; a shard that is missing or cut short is written anew. Edits in force are part of what is harvested.
    Raises ValueError for a folder with another harvest and BlockingIOError for one that is being written.
    """
    if isinstance(data, Harvest):
        raise ValueError(f"{data.folder} holds activations already; give the rows that the network is to read, such as text.")
    tokens = None if tokens is None else count_of(tokens)
    if tokens is not None and tokens < 1:
        raise ValueError(f"a harvest holds at least one token; found tokens={tokens}.")
    if shard_tokens < 1:
        raise ValueError(f"a shard holds at least 1 token; found shard_tokens={shard_tokens}.")
    folder = Path(out)
    asked = Manifest(
        network={"name": net.name, "fingerprint": fingerprint(net)},
        data={"name": data.name, "fingerprint": data.fingerprint, "rows": data.n_rows,
              "special_ids": list(getattr(data, "special_ids", ()))},
        sites=_places(net, sites), dtype=dtype, layout=codec_of(dtype).layout, tokens=tokens, shard_tokens=shard_tokens,
        seed=seed, batch_size=batch_size)
    plan = None if (folder / MANIFEST).exists() else _planned(net, data, asked)
    if plan is not None:
        _refuse_a_small_disk(folder, plan[0], progress)
    with locked(folder, "writing the harvest"):
        manifest = _begun(folder, *plan) if plan and not (folder / MANIFEST).exists() else _known(folder, asked, progress)
        try:
            _finished(net, data, manifest, folder, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped after {read_manifest(folder).n:,} tokens; run the same command again to go on "
                                    f"from {folder}") from None
    return Harvest(folder, net)


def _places(net: Network, sites: str | Site | Iterable[str | Site]) -> dict[str, Facts]:
    """Path and tensor of each site."""
    found = {site.name: site for site in net.sites(sites)}
    for site in found.values():
        if site.is_weight or site.io == "pattern":
            raise ValueError(f"{site.name} holds {site.io}, not activations, so there is nothing to harvest there.")
        if site.holds_maps:
            raise ValueError(f"{site.name} holds maps [b, channels, h, w], and a harvest is of vectors [b, d] or [b, t, d]; "
                             "choose a site behind the convolutions.")
    if not found:
        raise ValueError("no sites were given; give at least one, such as 'blocks.3' or 'blocks.*'.")
    return {site.name: {"path": site.path, "io": site.io} for site in found.values()}


def _planned(net: Network, data: Any, asked: Manifest) -> tuple[Manifest, dict[str, Calibration]]:
    """The manifest with widths and about how many tokens there will be, and the calibrations, from a first sample."""
    samples, per_row = _sample(net, data, list(asked.sites), asked.seed, asked.batch_size)
    widths = {name: {**facts, "d": samples[name].shape[-1]} for name, facts in asked.sites.items()}
    n = math.ceil(data.n_rows * per_row)
    return (replace(asked, sites=widths, expected=n if asked.tokens is None else min(n, asked.tokens)),
            {name: calibrate(x[below(x, norm_limit(x))]) for name, x in samples.items()})


def _begun(folder: Path, manifest: Manifest, calibrations: dict[str, Calibration]) -> Manifest:
    """A new harvest, without shards: their folder is made when the manifest is there."""
    if (folder / SHARDS).exists():
        raise ValueError(f"{folder} holds {SHARDS} without a {MANIFEST}; restore that file, or give another folder.")
    _sweep(folder)
    write_safetensors(folder / CALIBRATION, {f"{name}|{part}": tensor for name, found in calibrations.items()
                                             for part, tensor in (("centre", found.centre), ("spread", found.spread))})
    return replace(manifest, files={CALIBRATION: described(folder / CALIBRATION)}).write(folder)


def _known(folder: Path, asked: Manifest, progress: bool) -> Manifest:
    """The harvest that is there, if it is the one that was asked for."""
    known = read_manifest(folder)
    widths = {name: {**facts, "d": known.sites.get(name, {}).get("d")} for name, facts in asked.sites.items()}
    if changed := known.differs(replace(asked, sites=widths)):
        raise ValueError(f"{folder} holds a harvest with other settings ({', '.join(changed)} differ); give another folder, "
                         "or the same settings to go on.")
    _sweep(folder)
    if not known.finished:
        _refuse_a_small_disk(folder, known, progress)
    return known


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for name in (MANIFEST, CALIBRATION, STATISTICS):
        sweep(folder, name)
    for part in folder.glob(f"{SHARDS}/*{PART}"):
        shutil.rmtree(part)


def _sample(net: Network, data: Any, sites: list[str], seed: int, batch_size: int) -> tuple[dict[str, Tensor], float]:
    """The first activations at each site, and how many a row of the data gives."""
    pieces, n, rows = [], 0, 0
    for seen in activations(net, data, sites, batch_size, seed=seed):
        pieces.append(piece_of(seen, sites))
        n, rows = n + len(pieces[-1]), seen.next_row
        if n >= SAMPLE:
            break
    if n == 0:
        raise ValueError(f"no position of {data.name} counts, so there is nothing to harvest.")
    return {site: torch.cat([piece.x[site] for piece in pieces]).cpu() for site in sites}, n / rows


def bytes_of(manifest: Manifest, n: int) -> int:
    """The bytes of n tokens on disk, to within the headers of files."""
    widths = [facts["d"] for facts in manifest.sites.values()]
    a_token = TOKEN.itemsize + sum(CODECS[manifest.dtype].row_bytes(d) + 4 for d in widths)
    return n * a_token + (-(-n // manifest.shard_tokens) + 2) * 16 * sum(widths)


def _refuse_a_small_disk(folder: Path, manifest: Manifest, progress: bool) -> None:
    """Say how much will be written, and stop before anything is where that does not fit."""
    n = max(0, manifest.expected - manifest.n)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    size, free = bytes_of(manifest, n), shutil.disk_usage(place).free
    sites = ", ".join(manifest.sites) if len(manifest.sites) < 5 else f"{len(manifest.sites)} sites"
    what = f"about {n:,} tokens at {sites} as {manifest.dtype}"
    if size * 1.02 + MARGIN > free:
        raise OSError(errno.ENOSPC, f"{what} need {_said(size)} and a margin of {_said(MARGIN + size // 50)}, but the disk of "
                      f"{folder} has {_said(free)} free; give another folder, fewer tokens or sites, or dtype int8")
    if progress:
        print(f"Writing {what}: {_said(size)}, of {_said(free)} that are free.")


def _said(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _unwritten(folder: Path, manifest: Manifest) -> Iterator[int]:
    """The numbers of shards that are not there or were cut short, then of those that never were."""
    for number, shard in enumerate(manifest.shards):
        place = shard_folder(folder, number)
        if not all(is_whole(place / name, file) for name, file in shard.files.items()):
            yield number
    if not manifest.finished:
        yield from itertools.count(len(manifest.shards))


def _finished(net: Network, data: Any, manifest: Manifest, folder: Path, progress: bool) -> Manifest:
    """Write the shards that are missing, and the statistics of the whole."""
    calibrations = read_calibrations(folder, manifest)
    stream: Stream | None = None
    wanted = manifest.tokens or sys.maxsize
    with tqdm(total=manifest.expected, initial=manifest.n, desc="harvest", unit="tok", unit_scale=True, leave=False,
              disable=None if progress else True) as bar:
        for number in _unwritten(folder, manifest):
            if stream is None or stream.position != manifest.start(number):
                stream = Stream(net, data, list(manifest.sites), manifest.batch_size, manifest.seed, manifest.start(number))
            most = min(manifest.shard_tokens, wanted - number * manifest.shard_tokens)
            n, files = write_shard(folder, number, manifest, calibrations, stream.pieces(most), bar.update)
            if n:
                manifest = manifest.with_shard(number, Shard(n, *stream.position, files)).write(folder)
            if n < manifest.shard_tokens and number >= len(manifest.shards) - 1:
                break
    place = folder / STATISTICS
    if not manifest.finished or not is_whole(place, manifest.files[STATISTICS]):
        write_safetensors(place, summed_up(folder, manifest, {site: c.centre for site, c in calibrations.items()}))
        manifest = replace(manifest, finished=True, files={**manifest.files, STATISTICS: described(place)}).write(folder)
    return manifest
