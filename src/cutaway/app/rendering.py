"""From data to HTML, with everything escaped."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..report import charts, tokens, words
from . import drawing, sentences
from .links import Link
from .shelves import Library

HERE = Path(__file__).parent
ASSETS = {path.name: path for path in sorted((HERE / "assets").iterdir())}
# Controls, characters without width or that turn the direction of text, half characters: shown by number, never obeyed.
UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class _Templates(Environment):
    """Reads `row.count` in a dict as its key first: that is what is meant, and a page does it a thousand times."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


@cache
def templates() -> Environment:
    """The templates; a name that is not given is an error, and all that is shown is escaped."""
    made = _Templates(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, finalize=_seen)
    made.globals.update(charts=charts, draw=drawing, say=sentences, words=words, short=tokens.short,
                        printable=tokens.printable)
    made.filters["share"] = sentences.percent
    made.filters["number"] = sentences.number
    made.filters["count"] = lambda value: words.DASH if value is None else f"{value:,}"
    return made


def _seen(value: Any) -> Any:
    """Text in which every character can be seen; all that pages show goes through here."""
    if type(value) is str and not value.isprintable() and UNSEEN.search(value):
        return UNSEEN.sub(lambda found: f"⟨{ord(found[0]):02x}⟩", value)
    return value


@cache
def version() -> str:
    """Of all assets together: a part of their addresses, so that browsers may keep them."""
    state = hashlib.blake2b(digest_size=6)
    for path in ASSETS.values():
        state.update(path.read_bytes())
    return state.hexdigest()


def render(template: str, library: Library, link: Link, **data: Any) -> str:
    """A page or a part of one."""
    return templates().get_template(template).render(library=library, link=link, **data)
