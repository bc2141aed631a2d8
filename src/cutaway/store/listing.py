"""The table of features: sorted, filtered and searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .layout import SHARE
from .reading import listed

if TYPE_CHECKING:
    from .feature_store import FeatureStore

PLAIN = ("latent", "count", "n", "frequency", "documents", "mean", "std", "least", "max", "scale", "offset", "decoder_norm",
         "encoder_bias", "cosine", "energy", "status", "top_token")     # the columns of the summary that are single values
CALLED = ("named", "clears", "above")     # columns that come from labels and names; see `_called`
TOP_TOKENS = 5    # of a feature, among which a search looks


def features(store: FeatureStore, sort: str, descending: bool, where: Mapping[str, Any], search: str, offset: int,
             limit: int) -> dict[str, Any]:
    """See `FeatureStore.features`."""
    table, plain = store.files.table("summary"), plain_columns(store)
    for name in (sort, *where):
        if name not in (*plain, *CALLED):
            raise ValueError(f"features have no column {name!r}; they have {', '.join((*plain, *CALLED))}.")
    called = _called(store) if {sort, *where} & {*CALLED} else {}
    fit = np.ones(store.width, bool) if not search.strip() else _found(store, search.strip())
    for name, wanted in where.items():
        fit &= _fits(name, called[name] if name in called else table.column(name), wanted)
    chosen = np.flatnonzero(fit)
    keys = (called[sort] if sort in called else table.column(sort))[chosen]
    if keys.dtype == object:
        keys = np.unique(keys.astype(str), return_inverse=True)[1]
    order = np.argsort(-keys.astype(np.float64) if descending else keys, kind="stable")
    page = chosen[order[max(0, offset):][:max(0, limit)]]
    columns = {name: listed(table.column(name)[page]) for name in plain}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {"total": len(chosen), "rows": named(store, rows)}


def _fits(name: str, column: np.ndarray, wanted: Any) -> np.ndarray:
    """Where a column has the value that is wanted, or lies between the bounds: bool [width]."""
    bounds = wanted if isinstance(wanted, list | tuple) else (wanted, wanted)
    if column.dtype == object and isinstance(wanted, str):
        return column == wanted
    if column.dtype == object or len(bounds) != 2 or not all(isinstance(x, int | float | np.generic | None) for x in bounds):
        what = "a word" if column.dtype == object else "a number, or bounds (low, high)"
        raise ValueError(f"what {name} must be is {what}; found {wanted!r}.")
    low, high = bounds
    return (column >= (-np.inf if low is None else low)) & (column <= (np.inf if high is None else high))


def plain_columns(store: FeatureStore) -> tuple[str, ...]:
    """The columns of the summary that are single values, of this store."""
    return (*PLAIN, *(name for name in store.files.table("summary").columns if name.startswith(SHARE)))


def _found(store: FeatureStore, text: str) -> np.ndarray:
    """Which features a search by words finds: bool [width]."""
    found = np.zeros(store.width, bool)
    found[[latent for latent in store.notes.found(text) if latent < store.width]] = True
    if text.isdecimal() and len(text) < 10 and int(text) < store.width:
        found[int(text)] = True
    if store.files.has_words:
        fits = [i for i, name in enumerate(store.files.vocabulary.names) if text.lower() in name.lower()]
        peaks = store.files.table("peaks").columns
        found[peaks["latent"][(peaks["rank"] < TOP_TOKENS) & np.isin(peaks["token"], fits)]] = True
    return found


def _called(store: FeatureStore) -> dict[str, np.ndarray]:
    """What labels and names say of each feature, [width] each.

    named: it has a label or a name; clears: the score of its newest name is above floor and chance; above: how far that is
    above its floor, nan where there is none, which any sorting puts last.
    """
    named, clears, above = np.zeros(store.width, bool), np.zeros(store.width, bool), np.full(store.width, np.nan)
    named[list(store.notes.labels())] = True
    for latent, name in store.names.newest().items():
        named[latent], clears[latent], above[latent] = True, name["clears"], name["above"]
    return {"named": named, "clears": clears, "above": above}


def named(store: FeatureStore, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Summaries with the label, the newest name with its score, and the text of the top token."""
    latents = [row["latent"] for row in rows]
    labels, names = store.notes.labels(latents), store.names.newest(latents)
    return [{**row, "label": labels.get(row["latent"]), "name": names.get(row["latent"]),
             "top_token": store.token_text(row["top_token"])} for row in rows]
