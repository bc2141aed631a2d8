"""Every method that Cutaway offers, by name: what it is, where it comes from and how to call it.

A method is a function or class with a decorator, and appears by that alone in the catalogue, on the command line, in the
app and in the shared tests. A proof is a function with a decorator that shows a method's claim on this machine.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# The rooms in which methods live; each module in them is imported when the catalogue is read.
ROOMS = {"score": "cutaway.scores", "analysis": "cutaway.scores.findings", "dictionary": "cutaway.dictionaries",
         "edit": "cutaway.edits", "explain": "cutaway.explain", "circuit": "cutaway.circuits", "attribute": "cutaway.attribute"}
PROOFS = "cutaway.proofs"


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


def methods(family: str | None = None) -> dict[str, Method]:
    """All methods by id, or those of one family."""
    for name, package in ROOMS.items():
        if family in (None, name):
            _import_all(package)
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
