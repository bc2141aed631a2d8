"""Every method that Cutaway offers, by name: what it is, where it comes from and how to call it.

A method is a function or class with a decorator, and appears by that alone in the catalogue, on the command line, in the
app and in the shared tests. A proof is a function with a decorator that shows a method's claim on this machine.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# The rooms in which methods live; each module in them is imported when the catalogue is read.
ROOMS = {"score": "cutaway.scores", "analysis": "cutaway.scores.findings", "dictionary": "cutaway.dictionaries",
         "edit": "cutaway.edits", "explain": "cutaway.explain", "circuit": "cutaway.circuits", "attribute": "cutaway.attribute"}
PROOFS = "cutaway.proofs"
OUTSIDE, ENTRY_POINTS = "CUTAWAY_METHODS", "cutaway.methods"    # what names modules with methods from outside


@dataclass(frozen=True)
class Method:
    """One method: its id, what kind of thing it does, the paper it comes from, and the function or class itself.

    roster: the number of the published system that it answers for, where there is one. refuses: why it cannot be used on
    what it is given (for a score, a table of units), in one sentence; empty where it can, none where it always can.
    """

    id: str
    family: str
    title: str
    paper: str
    roster: str | None
    object: Callable[..., Any]
    refuses: Callable[[Any], str] | None = None

    @property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.object)

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return (inspect.getdoc(self.object) or self.title).split("\n\n")[0].replace("\n", " ")

    @property
    def proof(self) -> Callable[[], Any] | None:
        return proofs().get(self.id)


_methods: dict[str, Method] = {}
_proofs: dict[str, Callable[[], Any]] = {}


def method(id: str, *, family: str, title: str, paper: str = "", roster: str | None = None,
           refuses: Callable[[Any], str] | None = None) -> Callable[[T], T]:
    """Put a function or class into the catalogue."""
    def register(object: T) -> T:
        known = _methods.get(id)
        if known is not None and (known.object.__module__, known.object.__qualname__) != (
                object.__module__, object.__qualname__):  # type: ignore[attr-defined]
            raise ValueError(f"two methods are called {id!r}: {known.object.__module__} and {object.__module__}.")
        _methods[id] = Method(id, family, title, paper, roster, object, refuses)  # type: ignore[arg-type]
        return object
    return register


def proof(id: str) -> Callable[[T], T]:
    """Make a function the proof of a method or of a claim: it returns a `cutaway.proofs.Proof`."""
    def register(function: T) -> T:
        _proofs[id] = function  # type: ignore[assignment]
        return function
    return register


def _import_all(package: str) -> None:
    module = importlib.import_module(package)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{found.name}")


def import_outside() -> None:
    """Import methods from outside the package.

    They are in what installed packages name as entry points of the group `cutaway.methods`, and in the modules and files that
    the environment's CUTAWAY_METHODS names, with the system's separator of paths (: or ;) between them. ImportError, with the
    name, for one that cannot be imported.
    """
    named = [part.strip() for part in os.environ.get(OUTSIDE, "").split(os.pathsep) if part.strip()]
    for name in (*_installed(), *named):
        try:
            _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except Exception as error:
            where = OUTSIDE if name in named else f"the entry points {ENTRY_POINTS}"
            raise ImportError(f"{name}, which {where} names, cannot be imported: {type(error).__name__}: {error}") from error


@cache
def _installed() -> tuple[str, ...]:
    """The modules that installed packages name; looking for them takes a while."""
    return tuple(point.module for point in entry_points(group=ENTRY_POINTS))


def _import_file(path: Path) -> None:
    """Import a file once, under its own name."""
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path.resolve():
            return
        raise ImportError(f"there is a module called {path.stem} already; give the file another name.")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module     # where dataclasses look their names up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def methods(family: str | None = None) -> dict[str, Method]:
    """All methods by id, or those of one family."""
    if family is not None and family not in ROOMS:
        raise ValueError(f"there is no family of methods called {family!r}; there are {', '.join(ROOMS)}.")
    for name, package in ROOMS.items():
        if family in (None, name):
            _import_all(package)
    import_outside()
    return {id: m for id, m in sorted(_methods.items()) if family in (None, m.family)}


def find(id: str, family: str | None = None) -> Method:
    """The method of an id; an unknown one names the nearest."""
    known = methods(family)
    if id in known:
        return known[id]
    near = difflib.get_close_matches(id, known, n=3, cutoff=0.3) or list(known)
    raise ValueError(f"there is no {family or 'method'} called {id!r}; the nearest are {', '.join(near)}.")


def proofs() -> dict[str, Callable[[], Any]]:
    """All proofs by id."""
    _import_all(PROOFS)
    return dict(sorted(_proofs.items()))
