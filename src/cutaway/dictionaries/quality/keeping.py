"""What is kept of profiles: the lines of one that was interrupted, and those of an earlier one of the same things."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...files import write_json
from .line import FORMAT, Line, plain

SAME = ("network", "fingerprint", "dictionary", "data", "tokens", "seeds")


def kept(path: str | Path | None, digest: str, measure: Callable[[], list[Line]]) -> tuple[list[Line], float]:
    """Lines and the seconds that they took: those in the file, or new ones that are then written to it."""
    known = _read(Path(path)) if path is not None else {}
    if digest in known:
        return [Line.read(line) for line in known[digest]["lines"]], known[digest]["seconds"]
    start = time.perf_counter()
    lines = measure()
    seconds = round(time.perf_counter() - start, 2)
    if path is not None:
        known[digest] = {"seconds": seconds, "lines": [asdict(line) for line in lines]}
        write_json(path, plain({"format": FORMAT, "metrics": known}))
    return lines, seconds


def joined(earlier: dict[str, Any] | None, made: dict[str, Any]) -> dict[str, Any] | None:
    """A profile as data, with those lines of an earlier one that it lacks; none where these are of other things."""
    if earlier is None:
        return made
    new = {line["name"] for line in made["lines"]}
    lacks = [line for line in earlier["lines"] if line["name"] not in new]
    if not lacks:
        return made
    if any(earlier[fact] != made[fact] for fact in SAME):
        return None
    both = {name: {**earlier[name], **made[name]} for name in ("metrics", "seconds_by_metric")}
    both |= {name: made[name] or earlier.get(name, []) for name in ("others", "tasks")}
    return {**made, **both, "seconds": earlier["seconds"] + made["seconds"], "lines": [*lacks, *made["lines"]]}


def _read(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is damaged or of another version, for all of it can be measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["metrics"] if found["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
