"""What pages show, as JSON: of a store, and of one feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import listing, windows
from .features import Passage
from .layout import BINS, KINDS, SHARE

if TYPE_CHECKING:
    from .feature_store import FeatureStore

STATED = ("network", "data", "seed", "n_tokens", "n_rows", "row_length", "n_entries", "n_documents", "has_text",
          "effects", "coactivation_tokens", "seconds", "finished", "versions")


def overview(store: FeatureStore) -> dict[str, Any]:
    """See `FeatureStore.overview`."""
    table, manifest = store.files.table("summary"), store.manifest
    words, counts = np.unique(table.words["status"][table.columns["status"]].astype(str), return_counts=True)
    status = dict(zip(words.tolist(), counts.tolist(), strict=True))
    size = {name: facts["bytes"] for name, facts in manifest["files"].items()}
    by_latent = sum(n for name, n in size.items() if name.startswith("latents/"))
    edges = np.geomspace(1 / max(store.n_tokens, 1), 1, 41)
    fires = store.frequency[store.counts > 0].clip(edges[0], edges[-1])
    dictionary = {**manifest["dictionary"], "site": store.site}
    return {**{name: manifest[name] for name in STATED}, "dictionary": dictionary, "wiring": store.wiring, "width": store.width,
            "alive": int((store.counts > 0).sum()), **{name: status.get(name, 0) for name in ("dead", "rare", "dense")},
            "l0": manifest["n_entries"] / max(store.n_tokens, 1), "bytes": sum(size.values()),
            "bytes_per_entry": by_latent / max(manifest["n_entries"], 1),
            "firing_frequency": {"edges": edges.tolist(), "counts": np.histogram(fires, edges)[0].tolist(),
                                 "zeros": int((store.counts == 0).sum())}}


def page(store: FeatureStore, latent: int, n: int, before: int, after: int) -> dict[str, Any]:
    """See `FeatureStore.page`."""
    found = store.row_of(latent)
    chosen = contexts(store, latent, KINDS, n, before, after)
    return {"feature": listing.named(store, [{name: found[name] for name in listing.plain_columns(store)}])[0],
            "histogram": histogram(found), "positions": places(store, found), "logits": logits(store, latent),
            "no_logits": store.manifest.get("no_effects", ""), "shares": shares(found),
            "neighbours": neighbours(store, latent), "tokens": tokens(store, latent),
            "contexts": {kind: [passage.json() for passage in chosen[kind]] for kind in KINDS},
            **written(store, latent),
            "previous": latent - 1 if latent else None, "next": latent + 1 if latent + 1 < store.width else None}


def written(store: FeatureStore, latent: int) -> dict[str, Any]:
    """Label, notes, tags and names of a latent."""
    return {**store.notes.everything(latent), "names": store.names.of(latent)}


def shares(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a dictionary that writes several sites, each one's share of the latent's decoder norms, in that site's own units."""
    return [{"site": name.removeprefix(SHARE), "share": value} for name, value in found.items() if name.startswith(SHARE)]


def histogram(found: dict[str, Any]) -> dict[str, Any]:
    """See `FeatureStore.histogram`."""
    return {"edges": np.linspace(found["low"], found["high"], BINS + 1).tolist(), "counts": found["histogram"],
            "n": found["count"]}


def places(store: FeatureStore, found: dict[str, Any]) -> dict[str, Any]:
    """See `FeatureStore.positions`."""
    edges = np.linspace(0, store.manifest["row_length"], len(found["places"]) + 1)
    return {"edges": edges.tolist(), "counts": found["places"]}


def logits(store: FeatureStore, latent: int) -> dict[str, Any] | None:
    """See `FeatureStore.logits`."""
    latent, effects = store.known(latent), store.manifest["effects"]
    if effects is None:
        return None
    rows, shape = store.files.table("logits").rows(latent), store.files.table("logit_histograms").rows(latent)[0]
    sides = {name: [{"token": row["token"], "text": store.token_text(row["token"]), "value": row["value"]}
                    for row in rows if row["sign"] == sign] for name, sign in (("raised", 1), ("lowered", -1))}
    return {**sides, "n": effects["vocabulary"], "final_norm": effects["final_norm"], "site": effects.get("site", ""),
            "histogram": {"edges": np.linspace(shape["low"], shape["high"], BINS + 1).tolist(), "counts": shape["counts"]}}


def neighbours(store: FeatureStore, latent: int) -> dict[str, Any]:
    """See `FeatureStore.neighbours`."""
    rows = store.files.table("neighbours").rows(store.known(latent))
    others = {row["other"] for row in rows}
    labels, names = store.notes.labels(others), store.names.newest(others)
    found = [{**row, "latent": row["other"], "label": labels.get(row["other"]), "name": names.get(row["other"])}
             for row in rows]
    return {"cosine": [{key: row[key] for key in ("latent", "value", "label", "name")}
                       for row in found if row["kind"] == "cosine"],
            "coactive": [{"jaccard": row["value"], **{key: row[key] for key in ("latent", "count", "lift", "label", "name")}}
                         for row in found if row["kind"] == "coactive"],
            "n": store.manifest["coactivation_tokens"]}


def tokens(store: FeatureStore, latent: int) -> list[dict[str, Any]]:
    """See `FeatureStore.tokens`."""
    return [{"token": row["token"], "text": store.token_text(row["token"]), "count": row["count"], "total": row["total"],
             "share": row["share"]} for row in store.files.table("peaks").rows(store.known(latent))]


def contexts(store: FeatureStore, latent: int, kinds: tuple[str, ...], n: int, before: int, after: int,
             distinct: bool = False) -> dict[str, list[Passage]]:
    """See `FeatureStore.contexts`; several kinds at once."""
    found, chosen = store.files.table("contexts").of(latent), list[np.ndarray]()
    for kind in kinds:
        own = np.flatnonzero(found["kind"] == kind)
        if distinct and store.has_text:
            own = own[_first_of_their_tokens(store, found["position"][own])]
        if kind == "quantiles" and 0 < n < len(own):
            own = own[np.linspace(0, len(own) - 1, n).astype(int)]
        chosen.append(own[:max(0, n)])
    own = np.concatenate(chosen)
    passages = windows.passages(store.files, latent, found["position"][own].astype(np.int64), before, after,
                                found["kind"][own].tolist(), found["activation"][own], found["quantile"][own])
    return {kind: [passage for passage in passages if passage.kind == kind] for kind in kinds}


def _first_of_their_tokens(store: FeatureStore, positions: np.ndarray) -> list[int]:
    """Places of the first positions at which each sequence of three tokens ends."""
    ends = [tuple(store.files.tokens[max(0, p - 2): p + 1].tolist()) for p in positions.astype(np.int64).tolist()]
    return [i for i, end in enumerate(ends) if end not in ends[:i]]
