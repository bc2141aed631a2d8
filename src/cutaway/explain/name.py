"""A name of a feature, which never stands without its score, its floor and its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .outcome import Score


@dataclass(frozen=True)
class Name:
    """What a feature was found to be about, and how far that can be believed.

    text: empty where there is no name, and then `why` says why. by: the explainer; judge: who judged, the name's own rule
    or a language model's name. data: what it was found and scored on; density: the share of held-out windows in which the
    feature fires.
    """

    feature: int
    text: str
    by: str
    scores: tuple[Score, ...] = ()
    judge: str = ""
    data: str = ""
    density: float = float("nan")
    why: str = ""

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.why):
            raise ValueError("a name has words, or a reason why it has none; found both or neither.")
        if self.text and not any(score.value for score in self.scores):
            raise ValueError(f"the name {self.text!r} has no score; a name is never given without one.")

    @property
    def tells(self) -> bool:
        """Whether any score is above its floor and above chance."""
        return any(score.tells for score in self.scores)

    @property
    def brief(self) -> str:
        """The first of its scores that is defined, with interval and floor, in one line; for no name, why there is none."""
        return next((score.brief for score in self.scores if score.value), self.why)

    def __str__(self) -> str:
        if not self.text:
            return f"feature {self.feature} has no name: {self.why}"
        trust = "" if self.tells else "; no score is above its floor and chance"
        head = f"feature {self.feature}: {self.text}  (in {self.density:.1%} of windows{trust})"
        return "\n".join([head, *(f"  {score}" for score in self.scores)])

    def json(self) -> dict[str, Any]:
        """The name as data, with what its figures come to; what is undefined is null."""
        scores = [score.json() for score in self.scores]
        return _null({**asdict(self), "scores": scores, "tells": self.tells, "brief": self.brief})

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Name:
        """The name that `json` gave as data. Raises ValueError for other data."""
        try:
            own = {name: found[name] for name in cls.__dataclass_fields__}
            density = float("nan") if own["density"] is None else own["density"]
            return cls(**{**own, "density": density, "scores": tuple(map(Score.from_json, own["scores"]))})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no name that `cutaway explain` wrote ({type(error).__name__}: {error}).") from error


def _null(value: Any) -> Any:
    """A value without nan, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _null(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_null(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value
