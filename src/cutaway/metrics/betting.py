"""Tests by betting: wealth that grows where a null hypothesis is false, and which nulls are rejected at a set level.

A test may stop at any time: under its null hypothesis, wealth reaches 1 / alpha at any time with a chance of at most alpha
(Ville's inequality), and wealth at any time is an e-value.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import numpy as np

GAIN = 2 / (2 - log(3))    # the rate of the online Newton step
MOST = 0.5                 # the largest share of wealth that is bet, which keeps wealth above zero
LEAST_SCALE = 1e-4


def wealth(payoffs: Iterable[np.ndarray]) -> np.ndarray:
    """The wealth of several tests after each payoff: [tests, steps], starting from 1.

    payoffs: for each step one number a test [tests], whose distribution is symmetric about zero given the past where the
    null hypothesis is true. A payoff counts as tanh(payoff / scale), the scale being the distance of the 10% and 90%
    quantiles of the test's earlier payoffs, and the share of wealth that is bet follows the online Newton step (Cutkosky
    and Orabona 2018), as in arXiv 2405.19146.
    """
    past = np.empty((0, 0))          # the payoffs so far, in order of size: [tests, steps]
    found: list[np.ndarray] = []
    share, squares, now = (np.array(start) for start in (0.0, 1.0, 1.0))
    for payoff in payoffs:
        scale = (_quantile(past, 0.9) - _quantile(past, 0.1)).clip(LEAST_SCALE) if past.shape[1] >= 2 else 1.0
        bet = np.tanh(payoff / scale)
        now = now * (1 + share * bet)
        gradient = bet / (1 + share * bet)
        squares = squares + gradient**2
        share = np.clip(share + GAIN * gradient / squares, 0, MOST)
        past = _inserted(past, payoff)
        found.append(now)
    if not found:
        raise ValueError("a test by betting needs at least one payoff; give it more rows.")
    return np.stack(found, axis=1)


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    """A quantile of each row [tests, n] in order of size, between two entries by their distance: [tests]."""
    place = share * (ordered.shape[1] - 1)
    low, part = int(place), place % 1
    return ordered[:, low] + part * (ordered[:, min(low + 1, ordered.shape[1] - 1)] - ordered[:, low])


def _inserted(ordered: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Rows [tests, n] in order of size with one more number in each: [tests, n + 1]."""
    if ordered.shape[1] == 0:
        return new[:, None].copy()
    return np.concatenate([np.minimum(ordered, np.maximum(new[:, None], np.pad(ordered[:, :-1], ((0, 0), (1, 0)),
                                                                               constant_values=-np.inf))),
                           np.maximum(ordered[:, -1:], new[:, None])], axis=1)


def crossing(wealth: np.ndarray, level: float) -> np.ndarray:
    """The first step, from 1, at which wealth [tests, steps] exceeds a level: [tests], infinity where it never does."""
    over = wealth > level
    return np.where(over.any(1), over.argmax(1) + 1.0, np.inf)


def discoveries(wealth: np.ndarray, alpha: float) -> np.ndarray:
    """When each of k tests is rejected with the false-discovery rate at most alpha: steps [k], infinity where never.

    wealth: [k, steps]. The n-th rejection asks for wealth above k / (alpha n), and the earliest to get there is taken first
    (arXiv 2405.19146). The tests may depend on each other in any way.
    """
    times, k = np.full(len(wealth), np.inf), len(wealth)
    for n in range(1, k + 1):
        reached = np.where(np.isfinite(times), np.inf, crossing(wealth, k / (alpha * n)))
        if not np.isfinite(reached).any():
            break
        times[reached.argmin()] = reached.min()
    return times


def e_bh(values: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Which null hypotheses are rejected by their e-values [k], such as wealth, in any dependence: bool [k].

    The false-discovery rate is at most alpha. The n largest are rejected, for the largest n whose n-th e-value is at least
    k / (alpha n) (Wang and Ramdas 2022).
    """
    k = len(values)
    largest = np.sort(values)[::-1]
    enough = np.flatnonzero(largest >= k / (alpha * np.arange(1, k + 1)))
    return values >= largest[enough[-1]] if len(enough) else np.zeros(k, bool)
