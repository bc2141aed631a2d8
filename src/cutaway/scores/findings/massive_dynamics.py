"""How massive activations come about in training: the ratio of largest to median activation, and a curve for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, log, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...catalogue import method
from ...network import Network
from ..reading import Limits
from .stream import checked, stream

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Form:
    """A curve over training, A basis(t, *shape) + K: the names of its shape's parameters, all above 0, and where fits start."""

    basis: Callable[..., np.ndarray]
    shape: tuple[str, ...]
    starts: tuple[tuple[float, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return ("A", *self.shape, "K")


def _modulated(t: np.ndarray, decay: float, rate: float, start: float) -> np.ndarray:
    x = rate * t + start
    return np.exp(-decay * (x - start)) * np.log(x)       # the factor exp(-decay * start) is moved into A


RATES = ((1.0,), (10.0,), (100.0,))
FORMS = {
    "modulated": Form(_modulated, ("lambda", "gamma", "t0"), tuple(
        (decay / rate, rate, start) for decay in (0.03, 1.0, 10.0) for rate in (3.0, 30.0, 300.0) for start in (0.3, 1.5))),
    "logarithm": Form(lambda t, rate: np.log1p(rate * t), ("gamma",), RATES),
    "saturating": Form(lambda t, rate: -np.expm1(-rate * t), ("gamma",), RATES),
    "constant": Form(lambda t: np.zeros_like(t), (), ((),)),
}


@dataclass(frozen=True)
class Curve:
    """A fitted curve: its form and parameters, with time in units of the last step that it was fitted to.

    r2: the share of the variance that it explains; aicc: Akaike's criterion for small samples, lower is better; n: points.
    """

    form: str
    parameters: dict[str, float]
    last: float
    r2: float
    aicc: float
    n: int

    def __call__(self, steps: Values) -> np.ndarray:
        a, *shape, level = self.parameters.values()
        return a * FORMS[self.form].basis(np.asarray(steps, float) / self.last, *shape) + level

    @property
    def peak(self) -> float:
        """The step at which a modulated curve turns, from Lambert's W (section 4 of the paper); nan where it never does."""
        if self.form != "modulated":
            return nan
        from scipy.special import lambertw
        p = self.parameters
        x = float(np.exp(lambertw(1 / p["lambda"]).real))
        return (x - p["t0"]) / p["gamma"] * self.last if x > p["t0"] else nan


def fit_curve(steps: Values, values: Values, form: str = "modulated") -> Curve:
    """The least-squares fit of a curve to values over training steps.

    form: `modulated`, A exp(-lambda (x - t0)) ln x + K with x = gamma t + t0 (5 parameters; arXiv 2508.03616, eq. 1, with
    exp(-lambda t0) moved into A); or a rival: `logarithm`, A ln(1 + gamma t) + K, `saturating`, A (1 - exp(-gamma t)) + K, or
    `constant`. A and K follow exactly from the others, which are searched for from several starts; the best fit is kept.
    Raises ValueError for fewer points than parameters and one, or values that are not finite.
    """
    from scipy.optimize import least_squares
    if form not in FORMS:
        raise ValueError(f"a curve is {', '.join(FORMS)}; found {form!r}.")
    found, t, y = FORMS[form], np.asarray(steps, float), np.asarray(values, float)
    if t.shape != y.shape or t.ndim != 1 or len(t) < len(found.names) + 1 or len(np.unique(t)) < len(t):
        raise ValueError(f"a {form} curve is fitted to {len(found.names) + 1} or more values at different steps; found "
                         f"{t.shape} steps and {y.shape} values.")
    if not (np.isfinite(t).all() and np.isfinite(y).all()) or t.min() < 0 or t.max() <= 0:
        raise ValueError("steps and values of a curve are finite, and steps are not negative.")
    t, last = t / t.max(), float(t.max())

    def error(shape: np.ndarray) -> np.ndarray:
        a, level = _line(found.basis(t, *np.exp(shape)), y)
        return a * found.basis(t, *np.exp(shape)) + level - y

    shapes = [np.log(start) for start in found.starts]
    if found.shape:  # logarithms keep the parameters above 0
        shapes = [least_squares(error, shape, bounds=(-15, 15), max_nfev=200).x for shape in shapes]
    shape = min(shapes, key=lambda shape: float((error(shape) ** 2).sum()))
    squares, spread = float((error(shape) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    a, level = _line(found.basis(t, *np.exp(shape)), y)
    n, k = len(t), len(found.names) + 1 - (not found.shape)    # the noise is one more; a constant has no A
    aicc = n * log(max(squares, 1e-300) / n) + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else inf)
    parameters = dict(zip(found.names, (a, *np.exp(shape).tolist(), level), strict=True))
    return Curve(form, parameters, last, 1 - squares / spread if spread else nan, aicc, n)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The slope and level of the least-squares line of y over x; slope 0 where x does not vary."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square if square > 1e-12 * float(x @ x) else 0.0
    return slope, float(y.mean() - slope * x.mean())


@torch.no_grad()
def massive_ratio(net: Network, data: Any, *, tokens: int | None = None, batch_size: int = 16) -> Tensor:
    """The largest over the median |activation| of the residual stream after each block, mean over rows: [blocks].

    All tokens of a row are in it, the begin token too, where massive activations usually are.
    """
    sites, parts = stream(net)[1:], []
    for batch in Limits(tokens, batch_size).batches(data):
        seen = net.record(batch.to(net.device), sites)
        sizes = [checked(seen[site], site).float().abs().flatten(1) for site in sites]
        parts.append(torch.stack([x.amax(1) / x.median(1).values.clamp(min=1e-12) for x in sizes], 1).cpu())
    return torch.cat(parts).mean(0)


@dataclass(frozen=True)
class Dynamics:
    """steps: of the checkpoints; ratios: [checkpoints, blocks], largest over median |activation|; curves: one a block."""

    steps: tuple[int, ...]
    ratios: np.ndarray
    curves: tuple[Curve, ...]


@method("massive-dynamics", family="analysis", title="Massive activations over training, and a five-parameter curve for them",
        paper="arXiv 2508.03616", roster="214")
def massive_dynamics(checkpoints: Iterable[tuple[int, Network]], data: Any, *, form: str = "modulated",
                     tokens: int | None = None, batch_size: int = 16) -> Dynamics:
    """Measure the ratio of largest to median activation of each block at checkpoints of one training, and fit a curve to it.

    checkpoints: (step, network) one after the other, which need not be in memory together. form: of the curve, as in
    `fit_curve`. Raises ValueError for fewer checkpoints than the curve has parameters and one.

    Differs from the paper: see `fit_curve`, which fits the same curve, but not by one run over all five parameters.
    """
    if form not in FORMS:
        raise ValueError(f"a curve is {', '.join(FORMS)}; found {form!r}.")
    steps, ratios = [], []
    for step, net in checkpoints:
        steps.append(int(step))
        ratios.append(massive_ratio(net, data, tokens=tokens, batch_size=batch_size).numpy())
    if len({len(row) for row in ratios}) > 1:
        raise ValueError("the checkpoints are of one network; these differ in their number of blocks.")
    if len(steps) < len(FORMS[form].names) + 1:
        raise ValueError(f"a {form} curve takes {len(FORMS[form].names) + 1} checkpoints or more; found {len(steps)}.")
    table = np.stack(ratios)
    return Dynamics(tuple(steps), table, tuple(fit_curve(steps, column, form) for column in table.T))
