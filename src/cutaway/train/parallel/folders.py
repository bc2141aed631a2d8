"""Checkpoints of many ranks: folders that torch.distributed.checkpoint writes, whole or not there, the two newest kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from ...files import sync, write_json
from ...harvest.layout import described
from .group import Group

FOLDER, HEADER, KEPT = "checkpoints", "checkpoint.json", 2


def save(out: Path, group: Group, steps: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a checkpoint: all ranks their parts into a new folder, which is synced, sealed with checksums, and renamed.

    Raises OSError in one sentence where the disk is full; what was saved before is still there.
    """
    place = out / FOLDER / f"{steps:012d}"
    part = place.with_name(f".{place.name}.part")
    if group.rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    group.objects(None)
    try:
        with _quietly():
            dcp.save({name: t.detach() for name, t in tensors.items()}, checkpoint_id=part, no_dist=group.size == 1)
        own = {path.name: vars(described(path)) for path in sorted(part.glob(f"__{group.rank}_*"))}
        files = {name: facts for some in group.objects(own) for name, facts in some.items()}
        if group.rank == 0:
            files[".metadata"] = vars(described(part / ".metadata"))
            write_json(part / HEADER, {**header, "files": files})
            sync(part)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(part, place)
            sync(place.parent)
            for old in found(out)[KEPT:]:
                shutil.rmtree(old)
    except (dcp.api.CheckpointException, OSError) as error:
        if group.rank == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise _plain(error, place) from error
    group.objects(None)


def _plain(error: BaseException, place: Path) -> OSError:
    """What went wrong on some rank, in one sentence."""
    causes = [error, *(cause for cause, _ in getattr(error, "failures", {}).values())]
    if any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause) for cause in causes):
        return OSError(errno.ENOSPC, f"there is no space left on the disk to write {place}; free some and run this again: what "
                       "was saved before is still there")
    return OSError(errno.EIO, f"the checkpoint {place} could not be written ({causes[-1]}); what was saved before is still "
                   "there")


def found(out: Path) -> list[Path]:
    """The folders of checkpoints, the newest first."""
    return sorted((path for path in (out / FOLDER).glob("[0-9]*") if path.is_dir()), reverse=True)


def newest(out: Path, group: Group) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its header, or None where there is none; the ranks share the work of verifying it."""
    names = group.objects([path.name for path in found(out)])[0]
    problems: list[str] = []
    for place in (out / FOLDER / name for name in names):
        header, problem = _verified(place, group)
        said = [words for words in group.objects(problem) if words]
        if not said:
            return place, header
        problems += said[:1]
        if group.rank == 0:
            warnings.warn(f"{said[0]} Going on from the checkpoint before it, if there is one.", stacklevel=2)
    if problems:
        raise ValueError(" ".join(problems) + f" Delete {out / FOLDER} to begin again.")
    return None


def _verified(place: Path, group: Group) -> tuple[dict[str, Any], str]:
    """A checkpoint's header, and what is wrong with this rank's part of the files, if anything."""
    try:
        header = json.loads((place / HEADER).read_text(encoding="utf-8"))
        for name, facts in list(header.pop("files").items())[group.rank:: group.size]:
            if not (place / name).is_file() or vars(described(place / name)) != facts:
                return {}, f"{place / name} is missing, or no longer what was written (its checksum differs)."
    except (OSError, ValueError, KeyError) as error:
        return {}, f"{place} is not a whole checkpoint ({error})."
    return header, ""


def read(place: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors, whole ones or parts, from a checkpoint, in place."""
    with _quietly():
        dcp.load({name: t.detach() for name, t in tensors.items()}, checkpoint_id=place, no_dist=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that a process alone is alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def shapes(place: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The shape and type of every tensor in a checkpoint."""
    metadata = dcp.FileSystemReader(place).read_metadata().state_dict_metadata
    return {name: (facts.size, facts.properties.dtype) for name, facts in metadata.items()
            if isinstance(facts, dcp.metadata.TensorStorageMetadata)}


def remove(out: Path) -> None:
    """Forget the checkpoints of a training that is finished."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
