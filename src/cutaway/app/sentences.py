"""Facts as sentences and as short text, for people who see a feature for the first time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from ..report.svg import label
from ..report.tokens import short
from ..report.words import DASH
from ..report.words import number as plain_number

STATUS = {"alive": "fires", "dead": "never fires", "rare": "fires at less than one token in a million",
          "dense": "fires at more than a tenth of all tokens"}
# column of the summary -> what it is called and what it means
NUMBERS = {
    "frequency": ("Fires at", "share of the tokens at which it is above zero"),
    "documents": ("In documents", "documents in which it fires at least once"),
    "max": ("Largest activation", "over all tokens of the store"),
    "mean": ("Mean activation", "over the tokens at which it fires"),
    "energy": ("Share of energy", "its part of the squared length of everything that the dictionary decodes"),
    "cosine": ("Encoder with decoder", "cosine of the direction that it reads with the one that it writes"),
    "decoder_norm": ("Decoder norm", "length of its decoder row: what one unit of activation adds"),
    "encoder_bias": ("Encoder bias", "what must be overcome before it fires"),
}


def number(value: float | None) -> str:
    """Two or three digits; 4×10⁻¹⁰ for what is smaller than a ten-thousandth."""
    if value is None:
        return DASH
    return label(value) if 0 < abs(value) < 1e-4 else plain_number(value)


def percent(share: float | None) -> str:
    """A share with two or three digits: 12%, 0.41%, 0.0012%."""
    if share is None:
        return DASH
    if share == 0:
        return "0%"
    value = 100 * share
    if 99 < value < 100:
        return f"{min(value, 99.9):.1f}%"       # not quite all is not all
    places = 0 if value >= 10 else 1 if value >= 1 else 2
    while round(value, places) == 0 and places < 8:
        places += 1
    return f"{value:.{places}f}%"


def written(name: str, facts: Mapping[str, Any]) -> str:
    """A column of a feature's summary as text."""
    value = facts[name]
    if value is None:
        return DASH
    if name in ("frequency", "energy"):
        return percent(value)
    return f"{value:,}" if isinstance(value, int) else number(value)


def portrait(page: Mapping[str, Any]) -> str:
    """A feature in one or two sentences, as HTML, with the figures that they rest on."""
    facts, tokens = page["feature"], page["tokens"]
    if not facts["count"]:
        return (f"It never fires in the {facts['n']:,} tokens of this store, so nothing can be said of what it stands for; "
                "more text may wake it.")
    said = Markup("It fires at {} of {:,} tokens").format(percent(facts["frequency"]), facts["n"])
    if facts["documents"]:
        said += f", in {facts['documents']:,} document{'s' * (facts['documents'] != 1)}"
    if not tokens:
        return said + "."
    most = tokens[0]
    part = most["count"] / facts["count"]
    said += Markup(". Of its firings, {} are at the token <code>{}</code>, and it fires at {} of the places where that token "
                   "stands").format(percent(part), short(most["text"] or ""), percent(most["share"]))
    if most["share"] > 0.9 and part > 0.9:
        return said + ": it says little beyond which token is there."
    return said + "."


def glance(contexts: Mapping[str, list[dict[str, Any]]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """A few contexts of each kind, so that what is seen first is not only what fires hardest."""
    spread = contexts["quantiles"]
    n = min(5, len(spread))
    chosen = [spread[round(i * (len(spread) - 1) / max(n - 1, 1))] for i in range(n)]
    return [("Where it fires hardest", contexts["top"][:3]), ("Across its whole range, strong to weak", chosen),
            ("Silent, though a token of its kind is there", contexts["near-miss"][:2])]


def score(found: Mapping[str, Any]) -> str:
    """The score of a name with its floor and intervals, as it must be read."""
    if not found.get("value"):
        return f"{found['scorer']}: undefined, {found.get('why', '')}"
    value, floor = found["value"], found["floor"]

    def spread(f: Mapping[str, Any]) -> str:
        return f"{f['value']:.2f}" + (f" [{f['low']:.2f}, {f['high']:.2f}]" if f.get("low") is not None else "")
    return (f"{found['scorer']} {spread(value)}, floor {spread(floor)} ({value.get('unit') or ''}, "
            f"n = {value['n']:,} {value.get('of', '')})")


def when(at: str) -> str:
    """A moment as the store keeps it (2026-01-02T03:04:05Z), to the minute in UTC."""
    try:
        return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d, %H:%M} UTC"
    except ValueError:
        return at


def height(name: Mapping[str, Any]) -> str:
    """How far a name can be believed, in few words: its score and its floor."""
    return f"{name['value']:.2f}, floor {name['floor']:.2f}" + ("" if name["clears"] else ", doubtful")


def called(label: str | None, name: Mapping[str, Any] | None) -> str:
    """What a feature is called, where only plain text can stand: its label, or else its name with score and floor."""
    return label or (f"{name['text']} ({height(name)})" if name else "")


def values(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> list[list[Any]]:
    """What the table of features sorts by, row by row."""
    names = list(columns)
    return [[(row["name"] or {}).get("above") if name == "above" else row[name] for name in names] for row in rows]
