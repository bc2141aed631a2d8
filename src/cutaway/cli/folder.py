"""Run folders: what was asked for, in full, so that it can be run again."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..files import write_json

PACKAGES = ("cutaway", "torch", "transformers", "tokenizers", "numpy")


def begin(out: Path, command: str, arguments: dict[str, Any]) -> Path:
    """Write `config.json` of a run: its command, every argument, versions and time."""
    arguments = {name: _plain(value) for name, value in arguments.items()}
    write_json(out / "config.json", {
        "command": command, "arguments": arguments, "as_typed": " ".join(sys.argv), "folder": os.getcwd(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "versions": {name: version(name) for name in PACKAGES}})
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def read(folder: Path) -> dict[str, Any]:
    """The configuration that `begin` wrote."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no config.json, so it is not the folder of a run.")
    return json.loads(path.read_text(encoding="utf-8"))


def figures(out: Path, found: dict[str, Any]) -> Path:
    """Write figures, whole, as `figures.json`."""
    return write_json(out / "figures.json", found)
