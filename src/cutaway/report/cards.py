"""Features and contexts as HTML for notebooks: self-contained, no script, in whatever theme the notebook has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from .tokens import EMPTY, dedent, share, short, visible
from .words import number

MONO = "font:12.5px/1.55 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere"


def highlighted(context: Any, maximum: float | None = None) -> Markup:
    """A context as text: the shade of a token is its activation over `maximum` (its own largest if left out)."""
    most = max(context.activations, default=0.0) if maximum is None else maximum
    parts = []
    for i, (token, activation) in enumerate(zip(dedent(list(context.tokens)), context.activations, strict=True)):
        alpha, peak = share(activation, most), i == context.peak
        if not alpha and not peak:
            parts.append(Markup("{}").format(visible(token)))
            continue
        line = ";text-decoration:underline;text-underline-offset:3px" if peak else ""
        parts.append(Markup('<span style="background:rgba(255,166,40,{:.2f});border-radius:2px{}" title="{:.3g}">{}</span>')
                     .format(0.85 * alpha, line, activation, visible(token) or EMPTY))
    return Markup('<div style="{}">{}</div>').format(MONO, Markup("").join(parts))


def card(feature: Any, n: int = 3) -> Markup:
    """A feature: how often it fires, what it favours, its hardest contexts and some from all over its range."""
    says = f"fires at {feature.frequency:.3%} of {feature.features.n_tokens:,} tokens, at most {number(feature.max)}"
    parts = [Markup("<div><b>Feature {}</b> at {}: {}</div>").format(feature.index, feature.dictionary.site, says)]
    if name := getattr(feature, "name", None):      # features of a store may have one
        parts.append(Markup("<div>{}: <b>{}</b> <small>{}</small></div>").format(name.by, name.text, name.brief))
    try:
        raised, lowered = feature.logits(6)
    except (ValueError, AttributeError):      # the network has no words to favour
        raised, lowered = [], []
    parts += [_tokens(name, found) for name, found in (("favours", raised), ("disfavours", lowered)) if found]
    for kind, title in (("top", "hardest"), ("quantiles", "whole range")):
        for context in feature.contexts(n, kind):
            parts.append(Markup('<div style="display:grid;grid-template-columns:7em minmax(0,1fr);gap:1em;padding:6px 0;'
                                'border-top:1px solid rgba(128,128,128,.3)"><span style="opacity:.7">{}<br>{}</span>{}</div>')
                         .format(number(context.activation), title, highlighted(context, feature.max)))
    return Markup('<div style="max-width:60em">{}</div>').format(Markup("").join(parts))


def _tokens(name: str, found: Sequence[tuple[str, float]]) -> Markup:
    words = Markup(" ").join(Markup("<code>{}</code>").format(short(token)) for token, _ in found)
    return Markup('<div style="opacity:.8">{} {}</div>').format(name, words)
