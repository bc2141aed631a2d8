"""Features and contexts as HTML for notebooks: self-contained, no script, in whatever theme the notebook has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ..dictionaries.apart import places
from .tokens import EMPTY, dedent, printable, share, short, visible
from .words import number

MONO = "font:12.5px/1.55 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere"
TOKEN = "background:rgba(128,128,128,.14);border-radius:3px;padding:1px 5px;margin-right:.3em"
DARK = 0.6      # the alpha of a shade from which black can be read on it better than white, whatever the theme


def highlighted(context: Any, maximum: float | None = None) -> Markup:
    """A context as text: the shade of a token is its activation over `maximum` (its own largest if left out)."""
    if not any(context.tokens):     # of data without text
        return Markup("<div>{}</div>").format(str(context))
    most = max(context.activations, default=0.0) if maximum is None else maximum
    parts = []
    for i, (token, activation) in enumerate(zip(dedent(list(context.tokens)), context.activations, strict=True)):
        alpha, peak = share(activation, most), i == context.peak
        if not alpha and not peak:
            parts.append(Markup("{}").format(visible(token)))
            continue
        line = ";text-decoration:underline;text-underline-offset:3px" if peak else ""
        ink = ";color:#111" if 0.85 * alpha >= DARK else ""
        parts.append(Markup('<span style="background:rgba(255,166,40,{:.2f});border-radius:2px{}{}" title="{:.3g}">{}</span>')
                     .format(0.85 * alpha, line, ink, activation, visible(token) or EMPTY))
    return Markup('<div style="{}">{}</div>').format(MONO, Markup("").join(parts))


def card(feature: Any, n: int = 3) -> Markup:
    """A feature: how often it fires, what it favours, its hardest contexts and some from all over its range."""
    says = f"fires at {feature.frequency:.3%} of {feature.features.n_tokens:,} tokens, at most {number(feature.max)}"
    parts = [Markup('<div><b style="font-size:1.15em">Feature {}</b> at {}: {}</div>').format(
        feature.index, places(feature.dictionary), says)]
    if label := getattr(feature, "label", ""):      # features of a store may have one, and a name
        parts.append(Markup("<div><b>{}</b></div>").format(printable(label)))
    if name := getattr(feature, "name", None):
        parts.append(Markup('<div><b>{}</b> <span style="opacity:.75;font-size:.9em">{}; by {}</span></div>').format(
            name.text, name.brief, name.by))
    parts.append(Markup('<div style="height:.7em"></div>'))
    try:
        raised, lowered = feature.logits(6)
    except (ValueError, AttributeError):      # the network has no words to favour
        raised, lowered = [], []
    parts += [_tokens(name, found) for name, found in (("favours", raised), ("disfavours", lowered)) if found]
    for kind, title in (("top", "hardest"), ("quantiles", "whole range")):
        for context in feature.contexts(n, kind):
            parts.append(_row(Markup("{}<br>{}").format(number(context.activation), title),
                              highlighted(context, feature.max)))
    return Markup('<div style="max-width:60em;line-height:1.5">{}</div>').format(Markup("").join(parts))


def _row(says: Markup | str, shown: Markup) -> Markup:
    """What is shown, with what it is in a column beside it."""
    return Markup('<div style="display:grid;grid-template-columns:7em minmax(0,1fr);gap:1em;padding:6px 0;'
                  'border-top:1px solid rgba(128,128,128,.3)"><span style="opacity:.75">{}</span>{}</div>').format(says, shown)


def _tokens(name: str, found: Sequence[tuple[str, float]]) -> Markup:
    words = Markup(" ").join(Markup('<code style="{}">{}</code>').format(TOKEN, short(token)) for token, _ in found)
    return _row(name, Markup("<div>{}</div>").format(words))
