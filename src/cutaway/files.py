"""Files that are whole or not there: everything is written under another name, synced and renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor


def write(path: str | Path, writer: Callable[[Path], Any]) -> Path:
    """Let `writer` write a file under a temporary name, then put it in place; nothing half-written stays behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        writer(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"there is no space left on the disk to write {path}; free some and run this "
                          "again: what was finished before is still there") from error
        raise
    finally:
        part.unlink(missing_ok=True)
    return path


def sync(folder: Path) -> None:
    """Make a rename in a folder last through a loss of power, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON that people can read."""
    text = json.dumps(value, indent=2, default=str)
    return write(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write tensors; a full disk gives one sentence."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def writer(part: Path) -> None:
        # The library writes to a nameless file beside the one it is given, which a killed process would leave there for ever.
        room = part.with_suffix(".folder.part")
        room.mkdir(exist_ok=True)
        try:
            save_file(tensors, str(room / part.name), metadata)
            os.replace(room / part.name, part)
        except SafetensorError as error:
            if "No space left" in str(error) or "os error 28" in str(error):
                raise OSError(errno.ENOSPC, str(error)) from error
            raise
        finally:
            shutil.rmtree(room, ignore_errors=True)
    return write(path, writer)


def sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left half-written of a file in a folder; name: the file's, or a pattern."""
    for part in folder.glob(f".{name}.*part"):
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
