"""What a page shows of one latent, cut in advance from all of its firings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .layout import BINS, DENSE, LEVELS, PLACES, RARE
from .record import Runs

TOP, DECILE, RANDOM, NEAR = 50, 5, 25, 25     # contexts of each kind; of quantiles, in each tenth
PEAKS = 15                                    # tokens in the table of tokens
NEAR_PEAKS = 5                                # how many of them near-misses are sought for
INDEXED = 1 << 22                             # positions among which near-misses are sought


@dataclass(frozen=True)
class Corpus:
    """What the cuts of all latents share.

    occurrences: how often each token counts; order: some positions that count, sorted by token, in which the positions of
    token i are order[begins[i]: begins[i + 1]].
    """

    runs: Runs
    row_length: int
    n_tokens: int
    seed: int
    occurrences: np.ndarray
    order: np.ndarray
    begins: np.ndarray


def corpus(runs: Runs, row_length: int, n_vocabulary: int, seed: int) -> Corpus:
    """Count tokens and index a sample of whole rows by token."""
    n_tokens, step = 0, 1 << 22
    counts = np.zeros(max(n_vocabulary, 1), np.int64)
    for i in range(0, len(runs.keep), step):
        keep = runs.keep[i: i + step]
        n_tokens += int(keep.sum())
        if runs.tokens is not None:
            counts += np.bincount(runs.tokens[i: i + step][keep], minlength=len(counts))
    if runs.tokens is None:
        return Corpus(runs, row_length, n_tokens, seed, counts, np.zeros(0, np.int64), np.zeros(2, np.int64))
    n_rows = len(runs.keep) // row_length
    rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, max(1, INDEXED // row_length))).astype(np.int64))
    positions = (rows[:, None] * row_length + np.arange(row_length)).ravel()
    positions = positions[runs.keep[positions]]
    tokens = runs.tokens[positions].astype(np.int64)
    begins = np.concatenate([[0], np.cumsum(np.bincount(tokens, minlength=len(counts)))])
    return Corpus(runs, row_length, n_tokens, seed, counts, positions[np.argsort(tokens, kind="stable")], begins)


@dataclass(frozen=True)
class Cut:
    """The rows that one latent has in the tables."""

    summary: dict[str, Any]
    contexts: list[tuple[np.ndarray, ...]]     # kind number, positions, activations, quantiles
    peaks: tuple[np.ndarray, np.ndarray]       # tokens, counts


def scale_of(least: float, greatest: float) -> tuple[float, float]:
    """Offset and scale with which a latent's activations are kept as whole numbers from 0 to 255."""
    offset = min(least, 0.0)
    return offset, (greatest - offset) / LEVELS or 1.0


def levels(activations: np.ndarray, offset: Any, scale: Any) -> np.ndarray:
    """Activations as whole numbers from 0 to 255: activation = offset + scale * level, to half a scale."""
    return np.rint((activations - offset) / scale).clip(0, LEVELS).astype(np.uint8)


def cut(latent: int, positions: np.ndarray, activations: np.ndarray, shared: Corpus) -> Cut:
    """positions: ascending; activations: float32, both [n] with every firing of the latent."""
    n, length = len(positions), shared.row_length
    if n == 0:
        return Cut(_silent(latent, shared.n_tokens), [], (np.zeros(0, np.int64), np.zeros(0, np.int64)))
    exact = activations.astype(np.float64)
    least, greatest = float(exact.min()), float(exact.max())
    offset, scale = scale_of(least, greatest)
    high = greatest if greatest > offset else offset + 1.0
    documents, frequency = shared.runs.documents[positions], n / shared.n_tokens
    tokens, counts = _peaks(positions, shared)
    summary = {
        "latent": latent, "count": n, "n": shared.n_tokens, "frequency": frequency,
        "documents": 1 + int(np.count_nonzero(np.diff(documents))), "mean": float(exact.mean()), "std": float(exact.std()),
        "least": least, "max": greatest, "square": float((exact**2).sum()), "offset": offset, "scale": scale,
        "status": "dense" if frequency > DENSE else "rare" if frequency < RARE else "alive",
        "low": offset, "high": high, "histogram": np.histogram(exact, BINS, (offset, high))[0],
        "places": np.bincount(positions % length * PLACES // length, minlength=PLACES)[:PLACES],
        "top_token": int(tokens[0]) if len(tokens) else -1}
    return Cut(summary, list(_contexts(latent, positions, activations, tokens[:NEAR_PEAKS], counts[:NEAR_PEAKS], shared)),
               (tokens, counts))


def _silent_among(places: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Those of some places at which a latent that fires at some positions, ascending, does not."""
    nearest = np.searchsorted(positions, places).clip(max=len(positions) - 1)
    return places[positions[nearest] != places]


def _silent(latent: int, n_tokens: int) -> dict[str, Any]:
    zero = dict.fromkeys(("frequency", "mean", "std", "least", "max", "square", "offset", "low"), 0.0)
    return {**zero, "latent": latent, "count": 0, "n": n_tokens, "documents": 0, "scale": 1.0, "high": 1.0, "status": "dead",
            "histogram": np.zeros(BINS, np.int64), "places": np.zeros(PLACES, np.int64), "top_token": -1}


def _peaks(positions: np.ndarray, shared: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """The tokens at which it fires most often, and how often."""
    if shared.runs.tokens is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found, counts = np.unique(shared.runs.tokens[positions], return_counts=True)
    best = np.lexsort((found, -counts))[:PEAKS]
    return found[best].astype(np.int64), counts[best]


def _contexts(latent: int, positions: np.ndarray, activations: np.ndarray, tokens: np.ndarray, counts: np.ndarray,
              shared: Corpus) -> Iterator[tuple[np.ndarray, ...]]:
    """The contexts of each kind in the order of `layout.KINDS`, each with the quantile of its activation."""
    rng, n = np.random.default_rng([shared.seed, latent]), len(positions)
    order = np.argsort(activations, kind="stable")
    strength = activations[order]

    def chosen(kind: int, firings: np.ndarray) -> tuple[np.ndarray, ...]:
        values = activations[firings]
        return np.full(len(firings), kind), positions[firings], values, np.searchsorted(strength, values, side="right") / n

    yield chosen(0, _strongest(positions // shared.row_length, activations))
    edges = np.linspace(0, n, 11).astype(int)
    tenths = [low + rng.choice(high - low, min(high - low, DECILE), replace=False)
              for low, high in zip(edges[-2::-1], edges[:0:-1], strict=True)]
    yield chosen(1, order[np.concatenate([np.sort(tenth)[::-1] for tenth in tenths])])
    yield chosen(2, rng.choice(n, min(n, RANDOM), replace=False))
    near = _near_misses(positions, tokens, counts, shared, rng)
    yield np.full(len(near), 3), near, np.zeros(len(near), np.float32), np.zeros(len(near))


def _strongest(rows: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """The strongest firing of each row, of the rows in which it is strongest; the first of equals."""
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    ends = np.append(begins[1:], len(rows))
    heights = np.maximum.reduceat(activations, begins)
    best = np.argsort(-heights, kind="stable")[:TOP]
    return np.array([begins[i] + activations[begins[i]: ends[i]].argmax() for i in best], np.int64)


def _near_misses(positions: np.ndarray, tokens: np.ndarray, counts: np.ndarray, shared: Corpus,
                 rng: np.random.Generator) -> np.ndarray:
    """Positions at which a token stands that the latent often fires at, and the latent is silent."""
    wanted = np.ceil(NEAR * counts / max(counts.sum(), 1)).astype(int) if len(counts) else counts
    found = []
    for token, n in zip(tokens, wanted, strict=True):
        low, high = shared.begins[token], shared.begins[token + 1]
        if high > low:
            silent = _silent_among(shared.order[np.unique(rng.integers(low, high, 8 * int(n)))], positions)
            if len(silent) < n:     # it fires at nearly all of them
                silent = _silent_among(shared.order[low:high], positions)
            found.append(rng.permutation(silent)[:n])
    return np.concatenate(found)[:NEAR] if found else np.zeros(0, np.int64)
