"""Commands about methods and their proofs."""

from __future__ import annotations

from typing import Annotated

import tyro


def catalogue(family: Annotated[str, tyro.conf.Positional] = "", /, search: str = "") -> None:
    """List every method: its id, family, paper, and whether it has a proof.

    Args:
        family: Only one family, such as dictionary, score or edit.
        search: Only methods in which this text occurs.
    """
    from rich.console import Console

    from ..catalogue import methods, proofs
    from ..report import terminal
    known, proven = methods(), proofs()
    families = sorted({m.family for m in known.values()})
    if family and family not in families:
        raise ValueError(f"there is no family {family!r}; there are {', '.join(families)}.")
    rows = [(m.id, m.family, m.title, m.paper, "yes" if m.id in proven else "")
            for m in known.values() if family in ("", m.family)
            and search.lower() in f"{m.id} {m.title} {m.paper} {m.summary}".lower()]
    Console(highlight=False).print(terminal.table(["id", "family", "title", "paper", "proof"], rows, left=(0, 1, 2, 3, 4)))


def prove(ids: Annotated[tuple[str, ...], tyro.conf.Positional] = (), /, table: bool = False, out: str = "") -> None:
    """Run proofs: small paired experiments that show whether a method's claim holds here.

    Args:
        ids: Which proofs; left out, all of them.
        table: Only print the table of kept results.
        out: Folder for the results; left out, proofs/results in the current folder.
    """
    from pathlib import Path

    from ..proofs import prove as run
    from ..proofs import table as kept
    folder = Path(out or "proofs/results")
    found = {} if table else run(list(ids), folder)
    kept(folder)
    broken = [id for id, result in found.items() if isinstance(result, Exception)]
    if broken:
        raise ValueError(f"{', '.join(broken)} could not be run: {found[broken[0]]}")
