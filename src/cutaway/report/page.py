"""The report as one HTML page: no script, no request, readable in light and dark, on a phone and on paper."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import charts, sentences, tokens, words
from .contents import Report
from .scores import ScorePage
from .values import spaced


def render(report: Report) -> str:
    """The page as text. Everything in it is escaped, and its content policy forbids it to load or run anything."""
    return _filled("page.html", report=report, sentences=sentences, tokens=tokens, spaced=spaced)


def render_scores(page: ScorePage) -> str:
    """The page of scores as text, as safe as the other."""
    return _filled("scores.html", page=page)


def _filled(name: str, **content: object) -> str:
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    return templates.get_template(name).render(charts=charts, words=words, **content)
