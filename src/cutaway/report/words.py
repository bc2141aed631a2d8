"""How figures are written and what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..metrics import Figure
from .values import Missing, Shown

DASH = "–"

# name of a figure -> title, whether it is a share (shown in %), definition in one line. The longest fitting start
# of a name counts.
WORDS: dict[str, tuple[str, bool, str]] = {
    "fvu": ("Fraction of variance unexplained (FVU)", False,
            "squared error of the reconstruction over the variance of the activations about their per-dimension mean"),
    "l0": ("Active features a token (L0)", False, "how many features are not zero on a token, on average"),
    "dead": ("Dead features", True, "share of features that never fire on the tokens measured"),
    "dense": ("Dense features", True, "share of features that fire on more than a tenth of the tokens"),
    "norm_ratio": ("Norm ratio", False,
                   "length of the reconstruction over that of the activation, on average over tokens"),
    "cosine": ("Cosine similarity", False,
               "cosine between an activation and its reconstruction, on average over tokens"),
    "loss_recovered": ("Loss recovered", True, "(loss with the baseline in place − loss with the dictionary) / (loss "
                       "with the baseline in place − loss of the network as it is)"),
    "loss_spliced": ("Cross-entropy, dictionary spliced in", False,
                     "cross-entropy while the site's activations are replaced by their reconstructions"),
    "loss_zero": ("Cross-entropy, site set to zero", False, "cross-entropy while the site's activations are zero"),
    "loss_mean": ("Cross-entropy, site set to its mean", False,
                  "cross-entropy while the site's activations are their mean"),
    "loss_steered": ("Cross-entropy, steered", False, "cross-entropy while the feature is pushed"),
    "loss_rise": ("Rise in cross-entropy", False, "cross-entropy with the edit less that of the network as it is"),
    "loss_untouched": ("Cross-entropy, network as it is", False, "cross-entropy without any edit"),
    "loss": ("Cross-entropy", False, "−log probability of the next token, in nats, on average"),
    "kl": ("KL divergence", False,
           "how far the next-token distribution moves from that of the network as it is, in nats"),
    "perplexity": ("Perplexity", False, "exponential of the cross-entropy"),
    "bits_per_byte": ("Bits a byte", False, "cross-entropy in bits over the bytes of the text"),
    "accuracy": ("Accuracy", True, "share of tokens whose most likely prediction is right"),
    "frequency": ("Firing frequency", True, "share of tokens on which a feature is not zero"),
    "agreement": ("Rank agreement", False,
                  "Spearman correlation between a cheap score and the exact effect, over heads"),
}


def key(name: str) -> str | None:
    """The row of WORDS for a figure's name."""
    plain = name.lower().replace(" ", "_").replace("-", "_")
    return max((known for known in WORDS if plain.startswith(known)), key=len, default=None)


def title(figure: Shown) -> str:
    known, (_, at, place) = key(figure.name), figure.name.partition(" at ")
    return WORDS[known][0] + at + place if known else figure.name.replace("_", " ")


@dataclass(frozen=True)
class Written:
    """A figure as text. reason: why there is a dash in place of the value, or of the interval."""

    name: str
    value: str
    interval: str
    n: str
    against: str
    unit: str = ""
    reason: str = ""
    data: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.unit}".rstrip()


def written(figure: Shown) -> Written:
    """A figure with as many digits as its interval supports; a dash with its reason where there is none."""
    if isinstance(figure, Missing) or not math.isfinite(figure.value):
        given = figure.reason if isinstance(figure, Missing) else figure.undefined
        reason = given or "undefined here: the result is not a finite number"
        n = DASH if isinstance(figure, Missing) else f"{figure.n:,} {figure.of}"
        return Written(title(figure), DASH, DASH, n, getattr(figure, "baseline", None) or "", reason=reason)
    known = key(figure.name)
    share = bool(known and WORDS[known][1])
    scale, sign = (100.0, "%") if share else (1.0, "")
    value, low, high = (scale * x for x in (figure.value, figure.low, figure.high))
    bounded = math.isfinite(low) and math.isfinite(high)
    # Losses are compared on the same rows, where they differ by less than their intervals are wide.
    least = 0 if share or abs(value) >= 1 else 2
    places = max(least, _places(value, high - low if bounded else math.nan, more=1 if figure.unit else 0))
    interval = f"{_fixed(low, places)} to {_fixed(high, places)}{sign}" if bounded else DASH
    reason = "" if bounded else "no interval: too few rows to resample, or every one there is was counted"
    data = f"{figure.data}, seed {figure.seed}" if figure.data else f"seed {figure.seed}"
    return Written(title(figure), _fixed(value, places) + sign, interval, f"{figure.n:,} {figure.of}",
                   figure.baseline or "", figure.unit, reason, data)


def _places(value: float, width: float = math.nan, more: int = 0) -> int:
    """Decimals: one digit of half the interval and `more`, up to three of the value or three decimals."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    if not width > 0:
        return 0 if value == round(value) else max(0, min((2 if abs(value) >= 1 else 1) - magnitude, 8))
    return max(0, min(more - math.floor(math.log10(width / 2)), max(2 - magnitude, 3), 8))


def _fixed(value: float, places: int) -> str:
    return f"{value:,.{places}f}".replace("-", "−")


def number(value: float) -> str:
    """Two or three digits, with − for minus and – where there is no number."""
    if not math.isfinite(value):
        return DASH
    return _fixed(value, _places(value))


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def finite(figures: Iterable[Shown], name: str) -> list[Figure]:
    return [f for f in figures if isinstance(f, Figure) and key(f.name) == name and math.isfinite(f.value)]
