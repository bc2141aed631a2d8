"""Commands about methods and their proofs."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Annotated

import tyro

from .screen import console, say, show

if TYPE_CHECKING:
    from ..catalogue import Method


def catalogue(of: Annotated[str, tyro.conf.Positional] = "", /, search: str = "") -> None:
    """List every method: its id, family, paper, and whether it has a proof; or say all about one.

    Args:
        of: Only one family, such as dictionary, score or edit; or one method, such as topk.
        search: Only methods in which this text occurs, such as TopK.
    """
    from ..catalogue import methods, proofs
    known, proven = methods(), proofs()
    if of in known:
        _about(known[of], of in proven)
        return
    families = sorted({m.family for m in known.values()})
    if of and of not in families:
        near = difflib.get_close_matches(of, [*families, *known], n=3) or families
        raise ValueError(f"there is no family or method {of!r}; the nearest are {', '.join(near)}.")
    rows = [(m.id, m.family, m.title, m.paper, "yes" if m.id in proven else "")
            for m in known.values() if of in ("", m.family)
            and search.lower() in f"{m.id} {m.title} {m.paper} {m.summary}".lower()]
    show(["id", "family", "title", "paper", "proof"], rows, left=(0, 1, 2, 3, 4))


def _about(method: Method, provable: bool) -> None:
    """One method: where it comes from, how it is called, what it does, and how its claim is checked."""
    settings = [name if each.default is each.empty else f"{name}={each.default!r}"
                for name, each in method.signature.parameters.items()]
    say(f"{method.id} ({method.family}): {method.title}\n{method.paper}\n")
    say(f"{method.object.__module__}.{method.object.__name__}({', '.join(settings)})")
    for paragraph in (inspect.getdoc(method.object) or "").split("\n\n"):
        say("\n" + " ".join(paragraph.split("\n")), indent=0)
    if provable:
        say(f"\nIts claim is checked by: cutaway prove {method.id}")


def prove(ids: Annotated[tuple[str, ...], tyro.conf.Positional] = (), /, table: bool = False, out: str = "") -> None:
    """Run proofs: small paired experiments that show whether a method's claim holds here.

    Args:
        ids: Which proofs, such as topk rise; left out, all of them.
        table: Only print the table of kept results.
        out: Folder for the results; left out, proofs/results in the current folder.
    """
    from pathlib import Path

    from ..proofs import prove as run
    from ..proofs import table as kept
    folder = Path(out or "proofs/results")
    found = {} if table else run(list(ids), folder)
    kept(folder, console())
    broken = [id for id, result in found.items() if isinstance(result, Exception)]
    if broken:
        raise ValueError(f"{', '.join(broken)} could not be run: {found[broken[0]]}")
