"""What a report says, as plain data: each section of the page is one dataclass, and a missing section is left out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..metrics import Figure
from .values import Histogram, Series, Shown, plain


@dataclass(frozen=True)
class Run:
    """What was done.

    command: the exact command that gives this report again. tokens: how many the dictionary learned from.
    """

    title: str
    network: str
    data: str
    dictionary: str
    command: str
    seed: int
    tokens: int
    seconds: float
    finished: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Learning:
    """The dictionary: how it learned and how good it is.

    curve: fraction of variance unexplained over tokens. figures: known names get their title and definition from
    `words.WORDS`. frequencies: over latents, the share of tokens on which each fires; its zeros are dead latents.
    """

    site: str
    width: int
    curve: list[Series]
    figures: list[Shown]
    frequencies: Histogram


@dataclass(frozen=True)
class Context:
    """A stretch of text with one feature's activation on each token.

    tokens: as `tokens.spell` gives them. at: the token for which the stretch was chosen; if not said, where the feature
    fires hardest in it.
    """

    tokens: list[str]
    activations: list[float]
    source: str = ""
    label: str = ""
    at: int | None = None

    @property
    def peak(self) -> int | None:
        """The token to look at; None where the feature does not fire."""
        if self.at is not None:
            return self.at
        heights = [a if math.isfinite(a) else 0.0 for a in self.activations]
        return heights.index(max(heights)) if max(heights, default=0.0) > 0 else None

    @property
    def height(self) -> float:
        """The activation at the peak."""
        return self.activations[self.peak] if self.peak is not None else math.nan


@dataclass(frozen=True)
class Feature:
    """One feature of a dictionary.

    activations: those above zero. promoted, suppressed: tokens with the feature's effect on their logits. top: where it
    fires hardest; spread: drawn across the quantiles of its activations. chosen: how, and what was left out.
    """

    id: int
    frequency: Shown
    maximum: float
    activations: Histogram
    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]
    top: list[Context]
    spread: list[Context]
    chosen: str = ""
    label: str = ""


@dataclass(frozen=True)
class ScoreMap:
    """A score of every head: values [blocks][heads], NaN where it was not measured."""

    name: str
    values: list[list[float]]
    unit: str = ""


@dataclass(frozen=True)
class Estimator:
    """A cheap score beside the exact effect. agreement: their rank correlation; cost: in passes, in words."""

    name: str
    agreement: Shown
    cost: str
    seconds: float


@dataclass(frozen=True)
class Agreement:
    """How far scores agree with each other: rank correlations [names][names], NaN where a score is the same for all."""

    names: list[str]
    values: list[list[float]]


@dataclass(frozen=True)
class Heads:
    """How much each head matters. exact, cheap: the names of the two maps that are drawn against each other."""

    exact: str
    cheap: str
    maps: list[ScoreMap]
    estimators: list[Estimator]
    agreement: Agreement | None = None

    def map(self, name: str) -> ScoreMap:
        """The map of that name."""
        found = {m.name: m for m in self.maps}
        if name not in found:
            raise ValueError(f"the report has no score {name!r} of the heads; it has {', '.join(found) or 'none'}.")
        return found[name]


@dataclass(frozen=True)
class Ablation:
    """Some heads closed at once. kind: `best`, `worst` or `random`; units: such as "3.5" for block 3, head 5."""

    kind: str
    name: str
    units: list[str]
    loss: Shown
    kl: Shown


@dataclass(frozen=True)
class Acting:
    """What the scores are good for: heads closed by the score `score`. untouched: the loss of the network as it is."""

    score: str
    untouched: Figure
    ablations: list[Ablation]


@dataclass(frozen=True)
class Sample:
    """A prompt and how the network goes on: as it is, and steered."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Steering:
    """One feature pushed. strength: in `unit`. figures: what it costs on neutral text, such as KL and rise in loss."""

    feature: int
    site: str
    strength: float
    unit: str
    samples: list[Sample]
    figures: list[Shown]


@dataclass(frozen=True)
class Report:
    """All that one run found."""

    run: Run
    learning: Learning | None = None
    features: list[Feature] = field(default_factory=list)
    heads: Heads | None = None
    acting: Acting | None = None
    steering: Steering | None = None

    def json(self) -> dict[str, Any]:
        """Plain data that any JSON reader takes: numbers that are not finite become null."""
        return plain(asdict(self))
