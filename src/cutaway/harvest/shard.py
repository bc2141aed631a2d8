"""One shard, written under another name, synced, and put in place in one step."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import Tensor

from ..files import sync, write_safetensors
from .codecs import CODECS, Calibration
from .layout import STATISTICS, TOKENS, File, Manifest, described, shard_folder, site_file
from .statistics import Sums
from .stream import Piece

PART = ".part"


class Growing:
    """A file that grows, with its checksum; `finish` syncs it."""

    def __init__(self, path: Path):
        import xxhash
        self._file = open(path, "wb")  # noqa: SIM115
        self._state, self._size = xxhash.xxh3_128(), 0

    def add(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._state.update(data)
        self._size += len(data)

    def finish(self) -> File:
        self._file.flush()
        os.fsync(self._file.fileno())
        return File(self._size, self._state.hexdigest())

    def close(self) -> None:
        self._file.close()


def write_shard(folder: Path, number: int, manifest: Manifest, calibrations: dict[str, Calibration],
                pieces: Iterable[Piece], progress: Callable[[int], object]) -> tuple[int, dict[str, File]]:
    """Write one shard from pieces and return its tokens and files; without any tokens, nothing is written."""
    place = shard_folder(folder, number)
    part = place.with_suffix(PART)
    n, sums = 0, dict[str, Sums]()
    with _room_for(place), _scratch(part), ExitStack() as opened:
        def growing(name: str) -> Growing:
            file = Growing(part / name)
            opened.callback(file.close)
            return file

        sites = {site: growing(site_file(site, manifest.dtype)) for site in manifest.sites}
        tokens = growing(TOKENS)
        for piece in pieces:
            tokens.add(piece.tokens.tobytes())
            for site, x in piece.x.items():
                calibration = calibrations[site].to(x.device)
                sites[site].add(_bytes(CODECS[manifest.dtype].encode(x, calibration)))
                sums.setdefault(site, Sums(calibration.centre)).add(x)
            n += len(piece)
            progress(len(piece))
        if n == 0:
            return 0, {}
        files = {TOKENS: tokens.finish()}
        files |= {site_file(site, manifest.dtype): file.finish() for site, file in sites.items()}
        write_safetensors(part / STATISTICS, {k: v for site, own in sums.items() for k, v in own.tensors(site).items()})
        files[STATISTICS] = described(part / STATISTICS)
        sync(part)
        if place.exists():      # what a killed process left, or what is to be replaced because it was damaged
            shutil.rmtree(place)
        os.rename(part, place)
        sync(place.parent)
    return n, files


def _bytes(rows: Tensor) -> memoryview:
    return rows.contiguous().cpu().numpy().data.cast("B")


@contextmanager
def _scratch(part: Path) -> Iterator[None]:
    """An empty folder that is gone at the end, unless it was renamed."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _room_for(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"there is no space left on the disk to write {place}; free some and run the same "
                          "harvest again: it goes on from there") from error
        raise
