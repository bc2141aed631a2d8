"""The map of features: decoder rows of unit length on the two directions along which they differ most (PCA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..report.tokens import short

if TYPE_CHECKING:
    from ..store import FeatureStore

METHOD = "PCA of the decoder rows, each scaled to unit length"
STEPS = 4095     # places along each side of the map


def project(store: FeatureStore) -> dict[str, Any]:
    """JSON {method, explained, latents, x, y, frequency, tokens}: a point for each latent that fires.

    x, y: whole numbers 0..4095 over the range of each axis; explained: the share of variance on each axis.
    frequency: log10 of the share of tokens, in thousandths; tokens: each latent's most frequent token, its spaces visible.
    """
    alive = np.flatnonzero(store.counts > 0)
    chosen = alive if len(alive) else np.arange(store.width)
    unit = store.unit_directions.numpy()[chosen]
    centred = unit - unit.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes.sum(0) < 0, -1, 1)     # the sign of an eigenvector is arbitrary, so one is fixed
    places = centred @ axes
    low, high = places.min(0), places.max(0)
    places = ((places - low) / np.maximum(high - low, 1e-12) * STEPS).round().astype(int)
    if places.shape[1] == 1:
        places = np.column_stack([places, np.zeros_like(places)])
    explained = (values[::-1][:2] / max(float(values.sum()), 1e-12)).tolist()
    tops = store.frame("summary")["top_token"].to_numpy()
    frequency = 1000 * np.log10(np.maximum(store.frequency[chosen], 1e-12))
    return {"method": METHOD, "explained": [round(float(share), 4) for share in explained], "latents": chosen.tolist(),
            "x": places[:, 0].tolist(), "y": places[:, 1].tolist(), "frequency": frequency.round().astype(int).tolist(),
            "tokens": [short(store.token_text(int(tops[i])) or "") if tops[i] == tops[i] else "" for i in chosen]}
