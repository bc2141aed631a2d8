"""The ground that charts stand on: elements, scales and axes. Colours are CSS classes, so that themes apply."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

from markupsafe import Markup, escape


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element, everything in it escaped; attribute names lose a final _ and have - for _."""
    written = "".join([f' {_name(key)}="{_attribute(value)}"' for key, value in attributes.items()])
    # What is markup already is not escaped again; without being asked first, that costs a page a millisecond.
    inside = "".join([child if type(child) is Markup else escape(child) for child in children])
    return Markup(f"<{name}{written}>{inside}</{name}>")  # noqa: S704  every part went through escape


@cache
def _name(key: str) -> str:
    return str(escape(key.rstrip("_").replace("_", "-")))


def _attribute(value: object) -> str:
    if type(value) is str:
        return _word(value)
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value) if type(value) is int else escape(value)


@lru_cache(maxsize=1024)      # classes, and addresses that stand in two attributes
def _word(value: str) -> str:
    return str(escape(value))


def figure(width: float, height: float, description: str, *children: object) -> Markup:
    """A whole drawing. description: read aloud in place of the picture."""
    return tag("svg", *children, viewBox=f"0 0 {width:.0f} {height:.0f}", width=f"{width:.0f}", role="img",
               aria_label=description)


def text(x: float, y: float, content: object, class_: str = "tick", anchor: str = "start") -> Markup:
    return tag("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def _root(x: float) -> float:
    return math.copysign(math.sqrt(abs(x)), x)


# name -> there, back. The square root keeps signs and zero, and still opens up the small values.
SPACES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "linear": (lambda x: x, lambda x: x),
    "log": (math.log10, lambda x: 10.0**x),
    "root": (_root, lambda x: x * abs(x)),
}
SPACE_NAMES = {"linear": "", "log": ", log scale", "root": ", square-root scale"}


@dataclass(frozen=True)
class Scale:
    """From values low..high to pixels start..end, evenly in the space `space`."""

    space: str
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        there, low, pixels = self._line
        return self.start + (there(value) - low) * pixels

    @cached_property
    def _line(self) -> tuple[Callable[[float], float], float, float]:
        """Into the space, where `low` lies in it, and the pixels of one step there."""
        there = SPACES[self.space][0]
        low = there(self.low)
        return there, low, (self.end - self.start) / (there(self.high) - low)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the scale."""
        there, back = SPACES[self.space]
        low, high = there(self.low), there(self.high)
        if self.space == "log":
            decades = range(math.floor(low), math.ceil(high) + 1)
            steps = (1, 2, 5) if high - low < 2 else (1,)
            every = max(1, math.ceil(len(decades) / (count + 1))) if steps == (1,) else 1
            found = [step * 10.0**d for d in decades[::every] for step in steps]
            if sum(self.low <= x <= self.high for x in found) < 2:  # less than a factor of two or so
                return Scale("linear", self.low, self.high, self.start, self.end).ticks(3)
        else:
            rough = (high - low) / count
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.7 * rough)
            found = [back(i * step) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        rounded = {_round(x) if self.space == "root" else x for x in found}
        slack = 1e-9 * (self.high - self.low)
        return sorted(x for x in rounded if self.low - slack <= x <= self.high + slack)


def _round(x: float) -> float:
    return float(f"{x:.1g}")


def fit(values: Iterable[float], start: float, end: float, space: str = "linear",
        include: Iterable[float] = ()) -> Scale:
    """The scale that holds all finite values (positive ones for `log`) and those of `include`; never of no width."""
    found = [v for v in [*values, *include] if math.isfinite(v) and (space != "log" or v > 0)]
    low, high = (min(found), max(found)) if found else (0.1, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = (low / 2, high * 2) if space == "log" else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
    return Scale(space, low, high, start, end)


def fitting_space(values: Iterable[float]) -> str:
    """The space that tells values apart: `log` for three decades of positive values, `root` for long tails."""
    found = sorted(v for v in values if math.isfinite(v))
    if len(found) < 3 or found[0] == found[-1]:
        return "linear"
    if found[0] > 0 and found[-1] / found[0] > 1000:
        return "log"
    sizes = sorted(map(abs, found))
    return "root" if sizes[-1] > 8 * sizes[len(sizes) // 2] else "linear"


def label(value: float) -> str:
    """A tick's label: 0.5, 20, 10k, 2M, 10⁻⁴."""
    size = abs(value)
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit * (10 if name == "k" else 1):
            return f"{value / unit:g}{name}"
    if 0 < size < 1e-4:
        mantissa, exponent = f"{value:.0e}".split("e")
        power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return power if mantissa == "1" else f"{mantissa}×{power}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def axes(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    """Grid lines, tick labels and both axis labels: that of y stands above its axis, so that it reads level."""
    parts = []
    room = max(2, min(5, round((y.start - y.end) / 24)))      # labels that can stand above each other
    for value in y.ticks(room if y.space == "linear" else 5):
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(x.start - 6, y(value) + 4, label(value), anchor="end"))
    for value in x.ticks():
        parts.append(tag("line", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 4, class_="axis"))
        parts.append(text(x(value), y.start + 17, label(value), anchor="middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    parts.append(text(x.end, y.start + 34, x_label + SPACE_NAMES[x.space], "label", "end"))
    parts.append(text(0, y.end - 12, y_label + SPACE_NAMES[y.space], "label"))
    return Markup("").join(parts)
