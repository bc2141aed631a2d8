"""A latent's activations on stretches of text, gathered from the firings by position."""

from __future__ import annotations

import numpy as np

from .features import Passage
from .reading import Files

SPREAD = 3     # tokens to either side that a character at the edge of a stretch can be spread over, having at most four bytes


def passages(files: Files, latent: int, positions: np.ndarray, before: int, after: int, kinds: list[str],
             activations: np.ndarray | None = None, quantiles: np.ndarray | None = None) -> list[Passage]:
    """A passage around each position, with what each was chosen for.

    activations: the exact ones at the positions, where they are known; quantiles: theirs among all firings.
    """
    length, before, after = files.manifest["row_length"], max(0, before), max(0, after)
    rows, places = np.divmod(positions, length)
    starts, stops = np.maximum(places - before, 0), np.minimum(places + after + 1, length)
    sizes = stops - starts
    edges = np.concatenate([[0], np.cumsum(sizes)])
    spread = np.repeat(rows * length + starts - edges[:-1], sizes) + np.arange(edges[-1])
    values = fired(files, latent, spread)
    if activations is not None:
        values[edges[:-1] + places - starts] = activations
    values = values.round(6)
    documents = files.documents[positions].tolist()
    quantile = np.zeros(len(positions)) if quantiles is None else quantiles.astype(np.float64)
    made = []
    for i, kind in enumerate(kinds):
        a, b = edges[i], edges[i + 1]
        words = text(files, int(rows[i]), int(starts[i]), int(stops[i]))
        made.append(Passage(words, values[a:b].tolist(), int(places[i] - starts[i]), int(rows[i]), int(places[i]),
                            float(quantile[i]), kind, int(starts[i]), documents[i]))
    return made


def fired(files: Files, latent: int, positions: np.ndarray) -> np.ndarray:
    """The activations of a latent at some positions, 0 where it is silent."""
    fires, sizes = files.firings_at(positions)
    found = np.flatnonzero(files.latents[fires] == latent)
    offset, scale = (float(values[latent]) for values in files.scales)
    values = np.zeros(len(positions))
    values[np.repeat(np.arange(len(positions)), sizes)[found]] = offset + scale * files.levels[fires[found]]
    return values


def text(files: Files, row: int, start: int, stop: int) -> list[str]:
    """The text of some tokens of a row, as they have it in the whole row; empty where the data has none."""
    if not files.has_words:
        return [""] * (stop - start)
    length = files.manifest["row_length"]
    low, high = max(start - SPREAD, 0), min(stop + SPREAD, length)
    pieces = files.vocabulary.pieces(files.tokens[row * length + low: row * length + high].tolist())
    return pieces[start - low: stop - low]
