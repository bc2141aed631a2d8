"""One line of a profile: a figure and all that it must be read with."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

FORMAT = 1     # of profiles as JSON


@dataclass(frozen=True)
class Value:
    """A figure of one dictionary: its 95% interval, and of how many of what; without a value, the reason."""

    value: float = nan
    low: float = nan
    high: float = nan
    n: int = 0
    of: str = ""
    role: str = ""
    undefined: str = ""


@dataclass(frozen=True)
class Line:
    """One figure and all that it must be read with.

    controls: by name, each with its role: floor, ceiling or beside. difference: the figure less that of the random
    dictionary, with its interval, paired where both are measured on the same things. tells: whether that interval lies
    on the better side of zero; none where neither side is better, nothing is defined, or there is no interval.
    no_better_than: the controls beside it, such as the site's own dimensions, that it does not exceed beyond the interval of
    the difference.
    """

    name: str
    metric: str
    role: str
    better: str
    unit: str
    figure: Value
    controls: dict[str, Value]
    difference: tuple[float, float, float] | None
    tells: bool | None
    no_better_than: tuple[str, ...]
    digest: str

    @property
    def verdict(self) -> str:
        """What may be said of the figure."""
        if self.figure.undefined:
            return f"undefined: {self.figure.undefined}"
        if not self.better:
            return "describes, neither way is better"
        if self.difference is None:
            return "the random dictionary's figure is undefined" if "random" in self.controls else "has no random control"
        if self.tells is None:
            return "too little data for an interval"
        if self.tells:
            beside = f", but is no better than {' and '.join(self.no_better_than)}" if self.no_better_than else ""
            return f"tells trained from random{beside}"
        _, low, high = self.difference
        worse = high < 0 if self.better == "higher" else low > 0
        return "does not discriminate: random is better" if worse else "does not discriminate"

    @classmethod
    def read(cls, kept: dict[str, Any]) -> Line:
        """The line that `plain` made data of."""
        values = {name: _value(kept["controls"][name]) for name in kept["controls"]}
        difference = kept["difference"] and tuple(map(_number, kept["difference"]))
        return cls(**{**kept, "figure": _value(kept["figure"]), "controls": values, "difference": difference,
                      "no_better_than": tuple(kept["no_better_than"])})


def _number(kept: float | None) -> float:
    return nan if kept is None else kept


def _value(kept: dict[str, Any]) -> Value:
    return Value(**{**kept, **{name: _number(kept[name]) for name in ("value", "low", "high")}})


def plain(value: Any) -> Any:
    """As JSON has it; what is not a finite number is null."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value
