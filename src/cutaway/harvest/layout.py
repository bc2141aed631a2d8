"""How a harvest lies on disk.

    manifest.json                       what was harvested from what, and size and checksum of every other file
    calibration.safetensors             centre and spread [d] of each site, from a first sample
    statistics.safetensors              of each site: mean, variance, quantiles of the norms, sinks (written at the end)
    shards/00000/tokens.bin             13 bytes a token: its id, the data's row, the position in it, whether it was hidden
    shards/00000/blocks.2.int8          the activations at a site, one row of bytes a token (see `codecs`)
    shards/00000/statistics.safetensors sums over the shard, and the norm of every activation
    .lock                               held by whoever writes

All shards hold `shard_tokens` tokens except the last. Bytes are little-endian. A file is in the manifest only when it is
whole and synced to the disk, and the manifest is replaced in one step, so that a process may be killed at any moment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json

FORMAT = 1
KIND = "cutaway harvest"
MANIFEST, CALIBRATION, STATISTICS, TOKENS, SHARDS = (
    "manifest.json", "calibration.safetensors", "statistics.safetensors", "tokens.bin", "shards")
TOKEN = np.dtype([("id", "<i4"), ("row", "<u4"), ("position", "<u4"), ("hidden", "?")])
BLOCK = 2**18      # bytes hashed at a time, so few that they are still in the processor's cache

Facts = dict[str, Any]


@dataclass(frozen=True)
class File:
    """Size and checksum (128 bits of XXH3) of a file."""

    bytes: int
    checksum: str


@dataclass(frozen=True)
class Shard:
    """n: its tokens; row, skip: the next shard starts in the batch that begins at this row, after so many tokens of it."""

    n: int
    row: int
    skip: int
    files: dict[str, File]


@dataclass(frozen=True)
class Manifest:
    """Everything that a harvest says of itself.

    network: name, fingerprint. data: name, fingerprint, special_ids, rows. sites: by name, with path, io and width d.
    tokens: how many were asked for, or None for all; expected: about how many there will be; shards: those that are whole,
        in order.
    """

    network: Facts
    data: Facts
    sites: dict[str, Facts]
    dtype: str
    layout: str
    tokens: int | None
    shard_tokens: int
    seed: int
    batch_size: int
    expected: int = 0
    finished: bool = False
    files: dict[str, File] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()

    @property
    def n(self) -> int:
        return sum(shard.n for shard in self.shards)

    def start(self, number: int) -> tuple[int, int]:
        """Where a shard starts: the row at which a batch begins, and how many tokens of that batch come before."""
        before = self.shards[number - 1] if number else None
        return (before.row, before.skip) if before else (0, 0)

    def with_shard(self, number: int, shard: Shard) -> Manifest:
        return replace(self, shards=(*self.shards[:number], shard, *self.shards[number + 1:]))

    def differs(self, other: Manifest) -> list[str]:
        """The names of the settings in which two harvests differ, whatever has been written of them."""
        return [f.name for f in fields(self) if f.name not in ("expected", "finished", "files", "shards")
                and _plain(getattr(self, f.name)) != _plain(getattr(other, f.name))]

    def write(self, folder: Path) -> Manifest:
        """Put this manifest in the place of the old one, in one step."""
        value = {"kind": KIND, "format": FORMAT, **_plain(asdict(self))}
        write_json(folder / MANIFEST, {**value, "checksum": _seal(value)})
        return self


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; one that is missing, damaged, changed or of a newer format is refused with a sentence."""
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no {MANIFEST}, so it is no harvest; write one with cw.harvest.")
    broken = f"{path} is damaged, so what lies beside it cannot be trusted; restore it, or delete {folder} and harvest anew."
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(broken) from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise ValueError(f"{path} is not the manifest of a harvest; give the folder that cw.harvest wrote.")
    if value.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {value.get('format')}, but this version of Cutaway reads format {FORMAT}; "
                         "update Cutaway, or harvest anew.")
    if value.pop("checksum", None) != _seal(value):
        raise ValueError(broken)
    value = {f.name: value[f.name] for f in fields(Manifest)}
    value["files"] = _files(value["files"])
    value["shards"] = tuple(Shard(**{**shard, "files": _files(shard["files"])}) for shard in value["shards"])
    return Manifest(**value)


def _files(found: dict[str, Facts]) -> dict[str, File]:
    return {name: File(**facts) for name, facts in found.items()}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _seal(value: Facts) -> str:
    import xxhash
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())



# --- files ------------------------------------------------------------------------------------------------------------

def shard_folder(folder: Path, number: int) -> Path:
    return folder / SHARDS / f"{number:05d}"


def site_file(site: str, dtype: str) -> str:
    """The file of a site in a shard; a colon cannot be part of a file's name everywhere."""
    return f"{site.replace(':', '+')}.{dtype}"


def described(path: Path) -> File:
    """The size and checksum of a file, read block by block."""
    import xxhash
    state, size = xxhash.xxh3_128(), 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
            size += len(block)
    return File(size, state.hexdigest())


def is_whole(path: Path, file: File) -> bool:
    """Whether a file is there in its full length; its content is not looked at."""
    return path.is_file() and path.stat().st_size == file.bytes


def check(path: Path, file: File, remedy: str) -> None:
    """Raise an error with one sentence unless a file is there, as long as it should be."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {remedy}.")
    if path.stat().st_size != file.bytes:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes where {file.bytes:,} were written; {remedy}.")


def verify(path: Path, file: File, remedy: str) -> None:
    """Raise an error with one sentence unless a file holds exactly what was written."""
    check(path, file, remedy)
    if described(path) != file:
        raise ValueError(f"{path} no longer holds what was written (its checksum differs); {remedy}.")
