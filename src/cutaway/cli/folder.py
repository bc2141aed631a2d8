"""Run folders: what was asked for, in full, so that it can be run again."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..files import write, write_json

PACKAGES = ("cutaway", "torch", "transformers", "tokenizers", "numpy")


def begin(out: Path, command: str, arguments: dict[str, Any]) -> Path:
    """Write `config.json` of a run: its command, every argument, versions and time."""
    arguments = {name: _plain(value) for name, value in arguments.items()}
    write_json(out / "config.json", {
        "command": command, "arguments": arguments, "as_typed": " ".join(sys.argv), "folder": os.getcwd(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": {name: version(name) for name in PACKAGES}})
    return out


@contextmanager
def begun(out: Path, command: str, arguments: dict[str, Any]) -> Iterator[None]:
    """`begin` a run for the length of a `with` block; where the block fails, the configuration is again what it was before,
    and a folder in which nothing else was written is gone. An interruption leaves it, for the same command goes on.
    """
    path = out / "config.json"
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    above = [parent for parent in out.parents if not parent.exists()]
    begin(out, command, arguments)
    try:
        yield
    except Exception:
        with suppress(OSError):
            if before is not None:
                write(path, lambda part: part.write_text(before, encoding="utf-8"))
            elif {found.name for found in out.iterdir()} <= {"config.json", ".lock"}:
                shutil.rmtree(out)
                for parent in above:
                    parent.rmdir()
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def read(folder: Path) -> dict[str, Any]:
    """The configuration that `begin` wrote."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give that of a run, which holds a config.json.")
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no config.json, so it is not the folder of a run.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it, or run the command anew.") from error
    if not isinstance(found, dict) or not {"command", "arguments"} <= found.keys():
        raise ValueError(f"{path} is not the configuration of a run; give a folder that `cutaway learn` or the like wrote.")
    return found


def kept(path: Path) -> dict[str, Any]:
    """What an earlier run of a command left in a JSON file; nothing where there is none or where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def figures(out: Path, found: dict[str, Any]) -> Path:
    """Write figures, whole, as `figures.json`."""
    return write_json(out / "figures.json", found)
