"""The report as one HTML page: no script, no request, readable in light and dark, on a phone and on paper."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import charts, sentences, tokens, words
from .contents import Report
from .values import spaced


def render(report: Report) -> str:
    """The page as text. Everything in it is escaped, and its content policy forbids it to load or run anything."""
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True).get_template("page.html")
    return page.render(report=report, charts=charts, sentences=sentences, tokens=tokens, words=words,
                       spaced=spaced)
