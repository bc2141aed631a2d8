"""Two dictionaries side by side: which features of one are also in the other, against what chance would give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..store import FeatureStore

ALIKE = 0.7         # cosine from which features are called the same, as in arXiv 2410.07656 and its successors
MOST = 4096         # features of the first dictionary that are looked at; a random sample of them where it has more
SHOWN = 50


def compare(first: FeatureStore, second: FeatureStore, seed: int = 0) -> dict[str, Any]:
    """JSON: the best match of each feature that fires, by the cosine of decoder rows, in either direction.

    shared: the share of features with a match of at least 0.7, with a 95% interval over features, and the floor that random
    directions reach. pairs: features that are each other's best match, the closest first; lonely: those of the first with the
    farthest best match. Raises ValueError for dictionaries of different widths of the network.
    """
    sizes = [store.unit_directions.shape[1] for store in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"features can be compared in one space only; rows at {first.site} have {sizes[0]} dimensions and at "
                         f"{second.site} {sizes[1]}.")
    random = np.random.default_rng(seed)
    (a, rows), (b, columns) = (_directions(store, random) for store in (first, second))
    there, back = np.empty(len(a)), np.full(len(b), -2.0)
    match, from_b = np.empty(len(a), int), np.zeros(len(b), int)
    for start in range(0, len(a), 512):
        cosines = rows[start: start + 512] @ columns.T
        match[start: start + 512], there[start: start + 512] = cosines.argmax(1), cosines.max(1)
        best = cosines.max(0)
        closer = best > back
        from_b[closer], back[closer] = cosines.argmax(0)[closer] + start, best[closer]
    floor = _unit(random.standard_normal((min(512, len(a)), rows.shape[1])).astype(np.float32)) @ columns.T
    mutual = np.flatnonzero(from_b[match] == np.arange(len(a)))
    order = mutual[np.argsort(-there[mutual], kind="stable")][:SHOWN]
    lonely = np.argsort(there, kind="stable")[:SHOWN]
    edges = np.linspace(0, 1, 41)
    return {"sides": [_side(first, there, len(a)), _side(second, back, len(b))],
            "floor": {"mean": float(floor.max(1).mean()), "shared": float((floor.max(1) >= ALIKE).mean()), "n": len(floor)},
            "alike": ALIKE, "mutual": len(mutual), "seed": seed,
            "histogram": {"edges": edges.tolist(), "counts": np.histogram(there.clip(0, 1), edges)[0].tolist(),
                          "floor": np.histogram(floor.max(1).clip(0, 1), edges)[0].tolist()},
            "pairs": [_pair(first, second, int(a[i]), int(b[match[i]]), float(there[i])) for i in order],
            "lonely": [_pair(first, second, int(a[i]), int(b[match[i]]), float(there[i])) for i in lonely]}


def _directions(store: FeatureStore, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Latents that fire and their decoder rows of unit length; a sample where there are many."""
    chosen = np.flatnonzero(store.counts > 0)
    if len(chosen) == 0:
        raise ValueError(f"no feature of {store.folder.name} fires, so there is nothing to compare.")
    if len(chosen) > MOST:
        chosen = np.sort(random.permutation(chosen)[:MOST])
    return chosen, store.unit_directions.numpy()[chosen]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _side(store: FeatureStore, best: np.ndarray, n: int) -> dict[str, Any]:
    share = float((best >= ALIKE).mean())
    half = 1.96 * (share * (1 - share) / n) ** 0.5
    return {"n": n, "width": store.width, "shared": share, "low": max(0.0, share - half), "high": min(1.0, share + half),
            "mean": float(best.mean())}


def _pair(first: FeatureStore, second: FeatureStore, one: int, two: int, cosine: float) -> dict[str, Any]:
    found = {}
    for side, store, latent in (("first", first, one), ("second", second, two)):
        facts = store.summary(latent)
        found[side] = {name: facts[name] for name in ("latent", "frequency", "top_token", "label", "name")}
    return {**found, "cosine": cosine}
