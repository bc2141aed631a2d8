"""One feature of a store, with the face that `run.features[12]` has, and the stretches of text that show it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..dictionaries.features import Context, Feature

if TYPE_CHECKING:
    from ..explain import Name
    from .feature_store import FeatureStore


@dataclass(frozen=True)
class Passage(Context):
    """A context from a store.

    start: the place in the row of the first token; document: its number; kind: what it was chosen for. Near-misses, at which
    the feature is silent, have the quantile 0.
    """

    kind: str = ""
    start: int = 0
    document: int = 0

    def __str__(self) -> str:
        """The stretch of text with its peak in brackets, or where it is in data without text."""
        return super().__str__() if any(self.tokens) else f"row {self.row}, position {self.position}"

    def json(self) -> dict[str, Any]:
        """As JSON, with `activation`, that of the peak."""
        return {**vars(self), "activation": self.activation}


class Postings(NamedTuple):
    """Every firing of a latent in the order of the text: activations (float32), rows and positions (places in the row)."""

    activations: np.ndarray
    rows: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class StoredFeature(Feature):
    """A feature whose firings, contexts and effects on logits come from a store; `features` is the store."""

    features: FeatureStore  # type: ignore[assignment]

    @cached_property
    def activations(self) -> np.ndarray:
        """Its activations wherever it fires, to half of a 255th of the largest."""
        return self.features.postings(self.index).activations

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What the store says of it."""
        return self.features.summary(self.index)

    @property
    def count(self) -> int:
        return self.summary["count"]

    @property
    def max(self) -> float:
        return self.summary["max"]

    @property
    def names(self) -> list[Name]:
        """What each explainer found for it, names first and the newest first; each prints with its scores and floors."""
        from ..explain import Name
        return [Name.from_json(found) for found in self.features.names.of(self.index)]

    @property
    def name(self) -> Name | None:
        """The newest name; None where `cutaway explain` found none."""
        return next((name for name in self.names if name.text), None)

    @property
    def label(self) -> str:
        """What somebody called it; empty where nobody did."""
        kept = self.features.notes.label(self.index)
        return kept["text"] if kept else ""

    def contexts(self, n: int = 10, kind: str = "top", before: int = 20, after: int = 8,  # type: ignore[override]
                 seed: int = 0) -> list[Passage]:
        """Stretches of text chosen when the store was built: top, quantiles, random, near-miss; see `FeatureStore.contexts`.

        With a seed other than that of the store, `random` ones are drawn anew.
        """
        if kind == "random" and seed != self.features.manifest["seed"]:
            return self.features.interval(self.index, -np.inf, np.inf, n, before, after, seed)
        return self.features.contexts(self.index, kind, n, before, after)

    def logits(self, n: int = 8) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """The tokens whose logits its direction raises most, and those it lowers most; at most 15 of each."""
        found = self.features.logits(self.index)
        if found is None:
            why = self.features.manifest.get("no_effects") or "the network has no unembedding to read a direction by."
            raise ValueError(f"this store knows no effects on logits: {why}")
        raised, lowered = ([(row["text"], row["value"]) for row in found[side][:n]] for side in ("raised", "lowered"))
        return raised, lowered

    def __repr__(self) -> str:
        called = f"; labelled {label!r}" if (label := self.label) else ""
        called += f"; named {name.text!r}, {name.brief}" if (name := self.name) else ""
        return (f"Feature({self.index} at {self.features.site}: fires for {self.frequency:.3%} of "
                f"{self.features.n_tokens:,} tokens, max {self.max:.3g}{called})")
