"""What each page shows, as plain data; the same for the server and for a static site."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..catalogue import methods, proofs
from ..report.tokens import printable
from ..report.values import Histogram, Series
from ..store.layout import KINDS
from .compare import compare
from .sentences import NUMBERS, height
from .shelves import Library, Shelf, Table, read_json

ROWS = 50                     # of the table of features, on a page of it
SHOWN, MOST = 10, 50          # contexts of a kind at first, and in all
NEAR = 6                      # related features of a kind
LATELY = 1000                 # names that were found last, of which the best are shown first
SORTS = {"latent": "Feature", "top_token": "Most at", "frequency": "Fires at", "documents": "Documents", "max": "Max",
         "mean": "Mean", "energy": "Energy", "cosine": "Cosine", "above": "Label, or name with its score"}
# column -> what is said of it where the mouse rests on its name
MEANINGS = {"top_token": "the token at which it fires most often", **{column: said for column, (_, said) in NUMBERS.items()},
            "above": "in order of how far the score stands above its floor"}
STATES = ("", "alive", "dead", "rare", "dense")
# filter -> what it is called, and the columns that it asks for
NAMED: dict[str, tuple[str, dict[str, bool]]] = {
    "": ("all", {}), "yes": ("named", {"named": True}), "clear": ("above their floor", {"clears": True}),
    "no": ("unnamed", {"named": False})}
WINDOWS = (10, 20, 40)        # tokens on either side of a peak
ROLES = {"truth": "Against the truth", "core": "Core", "downstream": "Downstream",
         "diagnostic": "Diagnostics: each may mislead alone, and none is a headline"}


def overview(library: Library) -> dict[str, Any]:
    """The front page: what was looked at, how it fires, and a few features to begin with."""
    return {"shelves": [_shelf(shelf) for shelf in library.shelves.values()], "folders": [str(f) for f in library.folders],
            "profiles": library.profiles(), "tables": len(library.tables()), "figures": library.figures()}


def _shelf(shelf: Shelf) -> dict[str, Any]:
    facts = shelf.store.overview()
    fires = facts["firing_frequency"]
    history = shelf.history()
    curve = [Series("FVU", [step["tokens"] for step in history], [step["fvu"] for step in history])
             ] if history and {"tokens", "fvu"} <= history[0].keys() else []
    return {"shelf": shelf, "facts": facts, "frequencies": Histogram(fires["edges"], fires["counts"], fires["zeros"]),
            "curve": curve, "start": _to_begin_with(shelf)}


def _to_begin_with(shelf: Shelf, n: int = 6) -> list[dict[str, Any]]:
    """Features that have a label, then those whose names stand highest above their floor, then others that fire neither hardly
    ever nor nearly always, each with one strong context."""
    labelled = [latent for latent in shelf.store.notes.labels() if shelf.store.counts[latent]][:n]
    names = shelf.store.names.newest(most=LATELY)
    named = sorted((latent for latent, name in names.items() if name["clears"]), key=lambda i: -names[i]["above"])[:n]
    others = [feature.index for feature in shelf.store.interesting(n)]
    return [{"facts": shelf.store.summary(latent), "context": next(iter(shelf.store.contexts(latent, "top", 1, 14, 8)), None)}
            for latent in [*dict.fromkeys([*labelled, *named, *others])][:n]]


def features(shelf: Shelf, query: Mapping[str, str], limit: int = ROWS) -> dict[str, Any]:
    """One page of the table of features. query: sort, down, status, named, low, high (share of tokens), q, page."""
    sort = query.get("sort", "frequency")
    if sort not in SORTS:
        raise ValueError(f"features are sorted by {', '.join(SORTS)}; found {sort[:40]!r}.")
    down = query.get("down", "1") != "0"
    where: dict[str, Any] = {}
    if status := query.get("status", ""):
        if status not in STATES:
            raise ValueError(f"a feature is {', '.join(STATES[1:])}; found {status[:40]!r}.")
        where["status"] = status
    named = query.get("named", "")
    if named not in NAMED:
        raise ValueError(f"features are chosen by their names with {', '.join(filter(None, NAMED))}; found {named[:40]!r}.")
    where |= NAMED[named][1]
    low, high = (_share(query.get(name, ""), name) for name in ("low", "high"))
    if low is not None or high is not None:
        where["frequency"] = (low, high)
    page, text = max(1, _whole(query.get("page", "1"), "page")), query.get("q", "")[:200]
    found = shelf.store.features(sort, down, where, text, (page - 1) * limit, limit)
    return {"shelf": shelf, "rows": found["rows"], "total": found["total"], "page": page,
            "pages": max(1, math.ceil(found["total"] / limit)), "sort": sort, "down": down, "status": status, "q": text,
            "low": query.get("low", ""), "high": query.get("high", ""), "sorts": SORTS, "meanings": MEANINGS, "states": STATES,
            "named": named, "names": {value: said for value, (said, _) in NAMED.items()}, "first": (page - 1) * limit + 1}


def feature(shelf: Shelf, latent: int, query: Mapping[str, str], n: int = SHOWN) -> dict[str, Any]:
    """Everything about a feature. query: window, tokens on either side of a peak."""
    window = _window(query)
    found = shelf.store.page(latent, n + 1, window, window)     # one more of each kind tells whether there are more
    more = {kind: len(found["contexts"][kind]) > n for kind in KINDS}
    found["contexts"] = {kind: rows[:n] for kind, rows in found["contexts"].items()}
    near = {row["latent"] for kind in ("cosine", "coactive") for row in found["neighbours"][kind][:NEAR]}
    return {"shelf": shelf, "latent": latent, "found": found, "more": more, "tops": _tops(shelf, near), "near": NEAR,
            "shown": n, "window": window, "windows": WINDOWS, "maximum": found["feature"]["max"] or 0.0}


def contexts(shelf: Shelf, latent: int, query: Mapping[str, str]) -> dict[str, Any]:
    """More contexts of one kind. query: kind, skip, window, distinct."""
    kind, skip, window = query.get("kind", "top"), max(0, _whole(query.get("skip", "0"), "skip")), _window(query)
    distinct = query.get("distinct", "") == "1"
    rows = shelf.store.contexts(latent, kind, MOST, window, window, distinct)
    return {"shelf": shelf, "latent": latent, "rows": [row.json() for row in rows[skip: skip + SHOWN]], "kind": kind,
            "skip": skip + SHOWN, "more": len(rows) > skip + SHOWN, "window": window, "distinct": distinct,
            "maximum": shelf.store.summary(latent)["max"] or 0.0}


def interval(shelf: Shelf, latent: int, query: Mapping[str, str]) -> dict[str, Any]:
    """Contexts of one bar of the histogram. query: bin, seed, window."""
    window, bar, seed = _window(query), _whole(query.get("bin", "0"), "bin"), _whole(query.get("seed", "0"), "seed")
    found = shelf.store.histogram(latent)
    if not 0 <= bar < len(found["counts"]):
        raise IndexError(f"a histogram has the bars 0 to {len(found['counts']) - 1}; found {bar}.")
    low, high, count = found["edges"][bar], found["edges"][bar + 1], found["counts"][bar]
    half = (shelf.store.summary(latent)["scale"] or 0.0) / 2      # a bar counts exact activations, firings are kept to this
    rows = shelf.store.interval(latent, low - half, high + half, min(SHOWN, count), window, window, max(0, seed))
    return {"shelf": shelf, "latent": latent, "rows": [row.json() for row in rows], "low": low, "high": high, "bin": bar,
            "count": count, "seed": seed, "window": window, "maximum": shelf.store.summary(latent)["max"] or 0.0}


def search(shelf: Shelf, query: Mapping[str, str]) -> dict[str, Any]:
    """Features by words, by the text at which they fire, or by a direction. query: q, by."""
    text, by = query.get("q", "")[:4000], query.get("by", "words")
    if by not in ("words", "text", "direction"):
        raise ValueError(f"features are found by words, text or direction; found {by[:40]!r}.")
    found: Any = None
    if text.strip() and by == "words":
        found = shelf.store.features("frequency", True, {}, text[:200], 0, 100)
    elif text and by == "text":
        found = shelf.store.by_text(text[:200], 50)
    elif text.strip():
        found = shelf.store.by_direction(_numbers(text), 50)
    shown = found["features"] if by == "text" and found else found if by == "direction" and found else []
    return {"shelf": shelf, "q": text, "by": by, "found": found, "tops": _tops(shelf, {row["latent"] for row in shown})}


def _tops(shelf: Shelf, latents: Iterable[int]) -> dict[int, str | None]:
    """The token at which each of some features fires most often."""
    tokens = shelf.store.files.table("summary").column("top_token")
    return {latent: shelf.store.token_text(int(tokens[latent])) for latent in latents}


def row(shelf: Shelf, number: int) -> dict[str, Any]:
    """A row of the text, each token with its strongest feature."""
    found = shelf.store.row(number)
    latents = [top[0] for top in found["top"] if top]
    labels, names = shelf.store.notes.labels(set(latents)), shelf.store.names.newest(set(latents))
    tops = [{**shelf.store.summary(latent), "times": latents.count(latent)}
            for latent in sorted(set(latents), key=lambda i: (-latents.count(i), i))[:30]]
    return {"shelf": shelf, "row": found, "labels": labels, "names": names, "tops": tops,
            "n_rows": shelf.store.manifest["n_rows"]}


def points(shelf: Shelf) -> dict[str, Any]:
    """The map of features, with what those are called that have a label or a name."""
    labels, names = shelf.store.notes.labels(), shelf.store.names.newest()
    called = {latent: (name["text"], height(name)) for latent, name in names.items()} | {
        latent: (label, "") for latent, label in labels.items()}
    return {**shelf.projection, "called": {latent: [printable(text), said] for latent, (text, said) in called.items()}}


def compared(library: Library, query: Mapping[str, str]) -> dict[str, Any]:
    """Two dictionaries side by side. query: a, b."""
    slugs = list(library.shelves)
    a, b = query.get("a") or (slugs[0] if slugs else ""), query.get("b") or (slugs[1] if len(slugs) > 1 else "")
    for slug in filter(None, (a, b)):
        if slug not in library.shelves:
            raise LookupError(f"there is no dictionary {slug[:60]!r} here; there are {', '.join(slugs)}.")
    found, why = None, ""
    if a and b and a != b:
        try:
            found = compare(library.shelves[a].store, library.shelves[b].store)
        except ValueError as error:
            why = str(error)
    sides = [library.shelves[slug] for slug in (a, b) if slug]
    return {"a": a, "b": b, "slugs": slugs, "found": found, "why": why, "sides": sides,
            "facts": [side.store.overview() for side in sides]}


def evaluations(library: Library) -> dict[str, Any]:
    """Every figure of every profile with its floors, ceilings and interval."""
    return {"profiles": library.profiles(), "roles": ROLES, "figures": library.figures()}


def units(library: Library) -> dict[str, Any]:
    """Each table of units: its scores as maps over blocks and units, and the units that matter most."""
    return {"tables": [_units(table) for table in library.tables()]}


def _units(table: Table) -> dict[str, Any]:
    frame, scores = table.frame, {}
    for name, about in table.about.items():
        if name not in frame:
            continue
        placed = frame["block"].notna().all()
        grid = frame.pivot_table(index="block", columns="unit", values=name, dropna=False) if placed else None
        size = grid.shape[1] if grid is not None else 0
        best = frame.assign(size=frame[name].abs()).nlargest(12, "size").to_dict("records")
        scores[name] = {"about": about, "trust": table.trust.get(name),
                        "grid": grid.to_numpy().tolist() if grid is not None and 1 < size <= 64 else None,
                        "blocks": [float(v) for v in frame.groupby("block")[name].mean()] if grid is not None else None,
                        "best": [{"site": r["site"], "unit": int(r["unit"]), "value": float(r[name])} for r in best]}
    return {"title": f"{len(frame):,} {table.kind} of {table.network}", "folder": table.path.parent.name, "kind": table.kind,
            "scores": dict(sorted(scores.items(), key=_by_trust)), "checked": bool(table.trust)}


def _by_trust(score: tuple[str, dict[str, Any]]) -> float:
    """Scores that agree most with the exact effect come first, then those that were not checked or have no agreement."""
    trust = score[1]["trust"]
    return -trust.agreement if trust and trust.defined else math.inf


def catalogue(query: Mapping[str, str], results: Path) -> dict[str, Any]:
    """Every method, with the claim that its proof checks and what came of it. query: q, family."""
    proven, known, text = proofs(), methods(), query.get("q", "")[:200]
    kept = {path.stem: read_json(path) for path in sorted(results.glob("*.json"))} if results.is_dir() else {}
    families = sorted({method.family for method in known.values()})
    rows = [{"method": method, "result": kept.get(id), "provable": id in proven} for id, method in known.items()]
    others = [{"id": id, "result": kept.get(id), "summary": (function.__doc__ or id).strip().split("\n\n")[0]}
              for id, function in proven.items() if id not in known]
    return {"rows": [r for r in rows if _fits(r, text, query.get("family", ""))], "families": families, "q": text,
            "family": query.get("family", ""), "others": others, "total": len(known)}


def _fits(row: Mapping[str, Any], text: str, family: str) -> bool:
    method = row["method"]
    words = f"{method.id} {method.family} {method.title} {method.paper} {method.summary}".lower()
    return family in ("", method.family) and all(word in words for word in text.lower().split())


def _whole(text: str, name: str) -> int:
    if not text.lstrip("-").isdecimal() or len(text) > 12:
        raise ValueError(f"{name} is a whole number; found {text[:40]!r}.")
    return int(text)


def _share(text: str, name: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share of tokens from 0 to 1; found {text[:40]!r}.")
    return value


def _window(query: Mapping[str, str]) -> int:
    window = _whole(query.get("window", "20"), "window")
    return min(max(window, 0), 128)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.replace(",", " ").replace("[", " ").replace("]", " ").split()]
    except ValueError:
        raise ValueError("a direction is a list of numbers, such as 0.1, -0.2, 0.3.") from None
