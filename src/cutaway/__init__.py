"""Cutaway finds what matters inside a neural network, and acts on it."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Functions that are called as the rooms they come from: `cw.store` is the function, `cutaway.store` in an import the room.
ROOMS_TOO = {"attribute", "explain", "harvest", "observe", "store", "units"}


class _Face(ModuleType):
    """The package as its users hold it, which Python's import does not replace functions of with modules of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in ROOMS_TOO and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


if TYPE_CHECKING:
    from .api import *  # noqa: F403
else:
    def __getattr__(name: str) -> Any:
        """A room, or what `cutaway.api` offers, imported when it is first asked for: help and version do not wait for torch."""
        if name == "__all__" or not name.startswith("__"):
            if name not in ROOMS_TOO and find_spec(f"{__name__}.{name}"):
                return import_module(f"{__name__}.{name}")
            api = import_module(f"{__name__}.api")
            globals().update({known: getattr(api, known) for known in ("__all__", *api.__all__)})
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})


sys.modules[__name__].__class__ = _Face
