"""Logistic probes, and how well they rank and decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 25


@dataclass(frozen=True)
class Probe:
    """log odds = x @ weight + bias, for x [n, d] as they are."""

    weight: np.ndarray
    bias: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


def fit(x: np.ndarray, y: np.ndarray, strength: float) -> Probe:
    """Logistic regression with a penalty of strength * |w|^2 / 2 on standardised features, by Newton's method.

    The loss is the mean over rows; x: [n, d]; y: bool [n]. A feature that is constant has the weight 0.
    """
    x = np.asarray(x, np.float64)
    mean, spread = x.mean(0), x.std(0)
    scale = np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0)
    z = np.concatenate([(x - mean) * scale, np.ones((len(x), 1))], 1)
    w, ridge = np.zeros(z.shape[1]), np.append(np.full(x.shape[1], strength), 1e-9)

    def loss(w: np.ndarray) -> float:
        logits = z @ w
        return float(np.logaddexp(0, np.where(y, -logits, logits)).mean() + ridge @ w**2 / 2)

    before = loss(w)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -30, 30)))
        gradient = z.T @ (p - y) / len(y) + ridge * w
        curvature = (z * (p * (1 - p))[:, None]).T @ z / len(y) + np.diag(ridge + 1e-9)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while (after := loss(w - size * step)) > before + 1e-12 and size > 1e-3:
            size /= 2
        if after > before:
            break
        w = w - size * step
        if before - after < 1e-7:
            break
        before = after
    weight = w[:-1] * scale
    return Probe(weight, float(w[-1] - mean @ weight))


def auc(score: np.ndarray, y: np.ndarray) -> float:
    """Area under the receiver's curve, ties counted half: the chance that a true one scores above a false one."""
    from scipy.stats import rankdata
    positives = int(y.sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(score)[y].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def accuracy(score: np.ndarray, y: np.ndarray) -> float:
    """The share that falls on its own side of zero."""
    return float(((score > 0) == y).mean())


def f1(score: np.ndarray, y: np.ndarray) -> float:
    """Harmonic mean of precision and recall at zero."""
    said = score > 0
    return float(2 * (said & y).sum() / max(1, said.sum() + y.sum()))


def balanced(y: np.ndarray, pool: np.ndarray, each: int, random: np.random.Generator) -> np.ndarray:
    """Up to `each` true and as many false members of a pool of indices, in random order."""
    true, false = pool[y[pool]], pool[~y[pool]]
    each = min(each, len(true), len(false))
    return random.permutation(np.concatenate([random.permutation(true)[:each], random.permutation(false)[:each]]))
