"""The local web app: what was found, as pages that need no network, and cards for notebooks."""

from .export import export
from .serving import serve
from .shelves import Library
from .web import application

__all__ = ["Library", "application", "export", "serve"]
