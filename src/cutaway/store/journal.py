"""What is finished of a build, one line for each step, so that a build goes on after any interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np


class Journal:
    """An append-only file of finished steps; a last line that was cut short does not count."""

    def __init__(self, path: Path):
        self.path, self.steps = path, dict[str, dict[str, Any]]()
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                try:
                    step = json.loads(line)
                except ValueError:
                    break
                self.steps[step.pop("step")] = step
                whole += len(line)
            os.truncate(path, whole)

    def __contains__(self, step: str) -> bool:
        return step in self.steps

    def add(self, step: str, **facts: Any) -> None:
        """Say that a step is finished; what it wrote must be on the disk by now."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **facts}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.steps[step] = facts

    def once(self, step: str, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Do a step unless it is finished, and return what it says about itself."""
        if step not in self:
            self.add(step, **(work() or {}))
        return self.steps[step]


def cut_back(paths: Iterable[Path], sizes: dict[str, int]) -> None:
    """Remove from append-only files what was written after the journal's last line."""
    for path in paths:
        size = sizes.get(path.name, 0)
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise ValueError(f"{path} should hold at least {size:,} bytes and holds {found:,}, so this build cannot go on; "
                             f"remove {path.parent.parent} and build again.")
        if path.exists():
            os.truncate(path, size)


def append(path: Path, array: np.ndarray) -> int:
    """Add an array's bytes to a file, wait until they are on the disk, and return the file's length."""
    with open(path, "ab") as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
