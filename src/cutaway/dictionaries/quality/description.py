"""Description length: how many bits a token's codes take, against principal components of the same fidelity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..dictionary import Dictionary
from .bench import Bench, sums_by
from .contract import Metric, Results, Sums, Undefined, share
from .wired import elsewhere

COARSER = 0.01                                # the FVU that rounding may add
STEPS = 2.0 ** np.arange(-6, 6)                # of rounding, over the root mean square of a dimension
MOST = (16_384, 8_192, 8_192)                 # activations that learn, choose and are written down, at most
NAMES = ("description_bits", "description_ratio")


@dataclass(frozen=True)
class Coder:
    """How codes are written down, each latent by itself: whether it fires (rate [width]), and then its level, by a discrete
    Laplace distribution about the latent's own centre [width] with its own scale [width]."""

    rate: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    @staticmethod
    def fitted(levels: Any) -> Coder:
        """To levels, a sparse matrix [n, width] of whole numbers; latents that hardly fire lean on all others."""
        n, by_latent = levels.shape[0], levels.tocsc()
        counts = np.diff(by_latent.indptr)
        latent = np.repeat(np.arange(len(counts)), counts)
        typical = by_latent.data.mean() if len(by_latent.data) else 1.0
        centre = (np.bincount(latent, by_latent.data, len(counts)) + typical) / (counts + 1)
        apart = np.abs(by_latent.data - centre[latent])
        spread = apart.mean() if len(apart) else 1.0
        scale = (np.bincount(latent, apart, len(counts)) + spread) / (counts + 1)
        return Coder((counts + 0.5) / (n + 1), centre, scale.clip(0.05))

    def bits(self, levels: Any) -> np.ndarray:
        """Of each row of levels: [n]."""
        rows = levels.tocsr()
        row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        own = rows.indices
        away, half = np.abs(rows.data - self.centre[own]) / self.scale[own], 0.5 / self.scale[own]
        # The mass between level - 1/2 and level + 1/2, which either holds the centre or does not.
        outside = np.log(np.sinh(half)) - away
        inside = np.log(np.maximum(1 - np.exp(-half) * np.cosh(np.minimum(away, half)), 1e-300))
        level = -np.where(away >= half, outside, inside) / np.log(2)
        silent = -np.log2(1 - self.rate)
        each = level - np.log2(self.rate[own]) - silent[own]
        return silent.sum() + np.bincount(row, each, rows.shape[0])


def rounded(codes: Any, lengths: np.ndarray, step: float) -> Any:
    """The levels of codes, a sparse matrix [n, width], when what each latent adds is rounded to steps of one length."""
    made = codes.copy()
    made.data = np.rint(codes.data * lengths[codes.indices] / step)
    made.eliminate_zeros()
    return made


def restored(levels: Any, lengths: np.ndarray, step: float) -> Any:
    """The codes that levels stand for."""
    made = levels.copy()
    made.data = levels.data * step / lengths[levels.indices]
    return made


def error(decoder: tuple[np.ndarray, np.ndarray], codes: Any, x: np.ndarray) -> np.ndarray:
    """The squared error of each activation [n, d] as its codes, a sparse matrix [n, width], give it by W_dec and b_dec: [n]."""
    made = codes @ decoder[0] + decoder[1]
    return ((made - x) ** 2).sum(1)


@dataclass(frozen=True, eq=False)
class Rows:
    """Which activations learn how to write codes down, which choose the rounding, and which are written down; the squared
    distance of these from their mean, and the steps of rounding that are tried, the coarsest first."""

    train: np.ndarray
    choose: np.ndarray
    test: np.ndarray
    variance: float
    steps: np.ndarray


def rows_of(bench: Bench) -> Rows:
    """The rows of the first split."""
    seed = bench.seeds[0]
    random, split = np.random.default_rng(seed), bench.split(seed)
    train, choose, test = (np.sort(random.permutation(np.flatnonzero(split == part))[:most]) for part, most in enumerate(MOST))
    x = (bench.x / bench.spread)[test].double()
    variance = float((x - x.mean(0)).pow(2).sum())
    return Rows(train, choose, test, variance, STEPS[::-1] * (variance / len(test) / x.shape[1]) ** 0.5)


def by_components(bench: Bench, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Of all principal components, at each step: the FVU of the scored activations, and the bits of each [steps, n]."""
    from scipy.sparse import csr_matrix
    train, test = ((bench.x / bench.spread)[part].double() for part in (rows.train, rows.test))
    mean = train.mean(0)
    axes = torch.linalg.eigh((train - mean).T @ (train - mean)).eigenvectors
    learned, scored = (((x - mean) @ axes).numpy() for x in (train, test))
    left, bits = [], []
    for step in rows.steps:
        levels = np.rint(scored / step)
        left.append(float(((levels * step - scored) ** 2).sum()) / rows.variance)
        bits.append(Coder.fitted(csr_matrix(np.rint(learned / step))).bits(csr_matrix(levels)))
    return np.array(left), np.array(bits)


def description(dictionary: Dictionary, bench: Bench) -> Results:
    """Bits a token, and bits over those that principal components take at the same error."""
    if reason := elsewhere(dictionary):
        return dict.fromkeys(NAMES, Undefined(reason))
    parts = set(bench.split(bench.seeds[0]).tolist())
    if not {0, 1, 2} <= parts:
        return dict.fromkeys(NAMES, Undefined(
            "text to learn from, to choose by and to be written down are rows of their own, and there are too few rows"))
    if "description" not in bench.kept:
        rows = rows_of(bench)
        bench.kept["description"] = rows, by_components(bench, rows)
    rows, (left, bits) = bench.kept["description"]
    # Each site in units of its own spread, so that the sites that are written count alike.
    decoder = ((dictionary.W_dec.detach() / bench.spread).numpy(), (dictionary.b_dec.detach() / bench.spread).numpy())
    codes, lengths = bench.matrix(dictionary), np.linalg.norm(decoder[0], axis=1).clip(1e-12)
    x = (bench.x / bench.spread).numpy()
    train, choose, test = (codes[part] for part in (rows.train, rows.choose, rows.test))
    spread = float(((x[rows.choose] - x[rows.choose].mean(0)) ** 2).sum())
    exact = error(decoder, choose, x[rows.choose]).sum()

    def fine_enough(step: float) -> bool:
        made = error(decoder, restored(rounded(choose, lengths, step), lengths, step), x[rows.choose]).sum()
        return bool(made - exact <= COARSER * spread)

    step = next((step for step in rows.steps if fine_enough(step)), rows.steps[-1])
    levels = rounded(test, lengths, step)
    fvu = float(error(decoder, restored(levels, lengths, step), x[rows.test]).sum()) / rows.variance
    ours = Coder.fitted(rounded(train, lengths, step)).bits(levels)
    found, group = np.unique(bench.group[rows.test], return_inverse=True)
    of = f"tokens, coded with an FVU of {fvu:.3f}"

    def summed(other: np.ndarray) -> np.ndarray:
        return sums_by(group, len(found), [ours, other])

    results: Results = {NAMES[0]: Sums(summed(np.ones(len(ours))), share, "", of, len(ours), "bits a token")}
    if not left.min() <= fvu <= left.max():
        results[NAMES[1]] = Undefined(f"principal components are coded with an FVU from {left.min():.3f} to {left.max():.3f}; "
                                      f"these codes have {fvu:.3f}")
        return results
    # At steps so close, the bits of components are a straight line over the logarithm of their error.
    place = float(np.interp(np.log(fvu), np.log(left[::-1]), np.arange(len(left))[::-1]))
    low, part = int(min(place, len(left) - 2)), place - int(min(place, len(left) - 2))
    theirs = (1 - part) * bits[low] + part * bits[low + 1]
    results[NAMES[1]] = Sums(summed(theirs), share, "lower", of, len(ours))
    return results


DESCRIPTION = Metric(
    "description", 2, "diagnostic",
    f"codes are rounded as coarsely as adds {COARSER} to the FVU on one part of the documents; each latent's rate and levels "
    "are learned on a second part and written down on a third, every latent by itself; bits a token, and these over the bits "
    "that all principal components take with the same coder at the same error. The weights themselves are not counted",
    "the idea of minimum description length for sparse codes (arXiv 2410.11179), with bits of text that the coder has not "
    "seen, and read against principal components, for bits at another error say nothing",
    {"random": "floor", "permuted": "floor", "neurons": "beside"}, description, repeats=3)
