"""The dictionaries of a run one by one, as pages, names and figures are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cross_layer import CrossLayer
from .dictionary import Dictionary


def apart(dictionaries: Mapping[str, Any]) -> dict[str, Dictionary]:
    """Dictionaries by key, in which each latent has one activation a token.

    A cross-layer transcoder has one for each of its layers, by KEY/TARGET, such as `blocks.all.mlp/blocks.2.mlp`.
    """
    found: dict[str, Dictionary] = {}
    for key, one in dictionaries.items():
        found |= {f"{key}/{target}": layer for target, layer in one.source_layers().items()} if isinstance(one, CrossLayer) \
            else {key: one}
    return found


def chosen(dictionaries: Mapping[str, Any], key: str) -> dict[str, Dictionary]:
    """One of `apart`, or all of those that a key such as that of a cross-layer transcoder holds. Raises ValueError for none."""
    known = apart(dictionaries)
    found = {name: one for name, one in known.items() if name == key or name.startswith(f"{key}/")}
    if not found:
        raise ValueError(f"this run has no dictionary at {key}; it has {', '.join(known)}.")
    return found


def places(dictionary: Any) -> str:
    """Where a dictionary lies, in words: `blocks.2`, `blocks.0, blocks.3`, or `model.layers.2.mlp:in -> blocks.2.mlp`."""
    reads, writes = (", ".join(names) for names in (dictionary.reads, dictionary.writes))
    return reads if reads == writes else f"{reads} -> {writes}"
