"""Run proofs, keep what they gave, and show it."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..catalogue import proofs
from ..files import write_json
from ..provenance import commit, versions
from .proof import VERDICTS, Comparison, Proof, say


def prove(ids: str | Sequence[str] = (), folder: str | Path = "proofs/results") -> dict[str, Proof | Exception]:
    """Run proofs and keep each in `<folder>/<id>.json`; with no ids, all of them.

    Gives each proof, or the error that ended it: that is reported, what was kept before stays, and the others go on.
    """
    known, ids = proofs(), [ids] if isinstance(ids, str) else list(ids)
    unknown = [id for id in ids if id not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=3, cutoff=0.3) or list(known)
        raise ValueError(f"there is no proof called {unknown[0]!r}; the nearest are {', '.join(near)}.")
    found: dict[str, Proof | Exception] = {}
    for id in ids or known:
        say(f"{id} ...")
        start, cpu = time.perf_counter(), time.process_time()
        try:
            proof = known[id]()
            proof = replace(proof, id=id, seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu,
                            command=f"cutaway prove {id}", versions=versions(), commit=commit(),
                            time=datetime.now(UTC).isoformat(timespec="seconds"))
            write_json(Path(folder) / f"{id}.json", proof.json())
            found[id] = proof
            say(f"{id} {proof.words} ({proof.seconds:.0f} s)")
        except Exception as error:  # noqa: BLE001 - a proof runs anything, and no error of it may stop the others
            found[id] = error
            last = traceback.extract_tb(error.__traceback__)[-1]
            say(f"{id} could not be run: {type(error).__name__}: {error} (line {last.lineno} of {Path(last.filename).name})")
    return found


def read(folder: str | Path) -> dict[str, Proof]:
    """The proofs that were kept in a folder, by id."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            found[path.stem] = Proof.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a kept proof ({error}); remove it, or run cutaway prove {path.stem}.") from error
    return found


def table(folder: str | Path, console: Any = None) -> None:
    """Print the kept proofs: what was claimed, whether it holds, by how much, over how many seeds, in what time."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    console, kept = console or Console(highlight=False), read(folder)
    if not kept:
        console.print(f"no proofs are kept in {folder}; run cutaway prove.", markup=False)
        return
    shown = Table("proof", "claim, and what it rests on", box=box.SIMPLE_HEAD, pad_edge=False)
    for id, proof in kept.items():
        took = f"{proof.seconds:.0f} s ({proof.cpu_seconds:.0f} s of CPU)"
        head = Text.assemble((id, "bold"), f"\n{proof.words}\n{len(proof.seeds)} seeds\n{took}")
        lines = [*map(_line, proof.comparisons),
                 *(f"{'met' if met else 'not met'}: {check}" for check, met in proof.checks.items())]
        shown.add_row(head, Text("\n".join([proof.claim, *(f"- {line}" for line in lines)])))
        shown.add_section()
    console.print(shown)


def _line(part: Comparison) -> str:
    size = f", {abs(part.effect):.1f} sd" if part.effect == part.effect else ""
    return (f"{VERDICTS[part.holds]}: {part.figure}, {part.method} against {part.baseline} "
            f"{part.difference:+.3g} [{part.low:+.3g}, {part.high:+.3g}]{size}")
