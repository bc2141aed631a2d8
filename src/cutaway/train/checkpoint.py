"""Checkpoints of a training: one file each, the two newest kept, each with checksums of what is in it."""

from __future__ import annotations

import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import sweep, write_safetensors

NEWEST, BEFORE = "checkpoint.safetensors", "checkpoint-before.safetensors"


def save(folder: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a checkpoint, which is whole or not there; the one before it is kept until the next."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    sums = {name: _checksum(t) for name, t in tensors.items()}
    newest, before = folder / NEWEST, folder / BEFORE
    if newest.exists():
        newest.replace(before)
    try:
        write_safetensors(newest, tensors, {"cutaway": json.dumps({**header, "checksums": sums})})
    except BaseException:
        if before.exists() and not newest.exists():
            before.replace(newest)
        raise


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the header of the newest whole checkpoint in a folder, or None where there is none at all."""
    found = [folder / name for name in (NEWEST, BEFORE) if (folder / name).exists()]
    problems = []
    for path in found:
        try:
            return _read(path)
        except ValueError as error:
            problems.append(str(error))
            if path != found[-1]:
                warnings.warn(f"{error} Going on from the checkpoint before it.", stacklevel=2)
    if problems:
        raise ValueError(" ".join(problems) + f" Delete what is in {folder} to begin again.")
    return None


def remove(folder: Path) -> None:
    """Forget the checkpoints of a training that is finished, and what killed processes left half-written."""
    for path in (folder / NEWEST, folder / BEFORE):
        path.unlink(missing_ok=True)
    sweep(folder, NEWEST)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {})["cutaway"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}).") from error
    changed = [name for name, value in header.pop("checksums").items() if _checksum(tensors[name]) != value]
    if changed:
        raise ValueError(f"{path} was changed after it was written ({', '.join(changed[:3])} differ from their checksums).")
    return tensors, header


def _checksum(t: Tensor) -> int:
    return zlib.crc32(t.flatten().view(torch.uint8).numpy().data) if t.numel() else 0
