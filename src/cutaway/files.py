"""Files that are whole or not there: everything is written under another name, synced and renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write(path: str | Path, writer: Callable[[Path], Any]) -> Path:
    """Let `writer` write a file under a temporary name, then put it in place; nothing half-written stays behind."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"there is no space left on the disk to write {path}; free some and run this "
                          "again: what was finished before is still there") from error
        if error.filename is not None and Path(error.filename) in (part, *path.parents):     # and not something that is read
            raise OSError(error.errno, f"{path} cannot be written ({error.strerror}); give a folder that can") from error
        raise
    finally:
        with suppress(OSError):
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


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder's lock; another process that wants it is refused, and told what the first is `doing` there. A killed
    process holds it no longer.
    """
    try:
        import fcntl
    except ImportError:     # Windows has none; there, two writers are up to the user.
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError(errno.EAGAIN, "the lock that was held goes at this moment")
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, f"another process is {doing} in {folder}; wait until it ends, or give another "
                                  "folder") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left half-written of a file in a folder; name: the file's, or a pattern."""
    for part in folder.glob(f".{name}.*part"):
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
