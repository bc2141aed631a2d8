"""Older ways to decompose activations, from scikit-learn, as dictionaries: what a sparse autoencoder has to beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .abs_topk import LargestMagnitude
from .codes import Codes
from .dictionary import Dictionary
from .non_negative import NonNegative
from .parts import sparsifier
from .snmf import SNMF, with_rows

if TYPE_CHECKING:
    import numpy as np


@method("pca", family="dictionary", title="Principal component analysis", paper="Pearson 1901; Hotelling 1933")
def PCA(x: Tensor, width: int = 256, k: int = 32, seed: int = 0) -> Dictionary:
    """Principal components, of which an activation uses the k with the largest scores by magnitude.

    x: [n, d]; width: components, at most d; k: how many are used. seed: of the solver.
    """
    from sklearn.decomposition import PCA as Components
    made = Components(min(width, *x.shape), random_state=seed).fit(_numpy(x))
    rows = torch.from_numpy(made.components_).float()
    return with_rows(rows, LargestMagnitude(min(k, len(rows))), x.float().mean(0))


@method("ica", family="dictionary", title="Independent component analysis (FastICA)", paper="Hyvärinen & Oja 2000")
def ICA(x: Tensor, width: int = 256, k: int = 32, seed: int = 0, iterations: int = 200) -> Dictionary:
    """Independent components, of which an activation uses the k that write most.

    x: [n, d]; width: components, at most d; k: how many are used, by the magnitude of the score times the norm of what it
    writes, since rows are scaled to unit norm. seed, iterations: of FastICA.
    """
    import warnings

    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning
    fit = FastICA(min(width, *x.shape), random_state=seed, max_iter=iterations, whiten="unit-variance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)   # the last iterate is the baseline that it is
        fit.fit(_numpy(x))
    rows, read = torch.from_numpy(fit.mixing_.T).float(), torch.from_numpy(fit.components_).float()
    made = with_rows(rows, LargestMagnitude(min(k, len(rows))), torch.from_numpy(fit.mean_).float())
    with torch.no_grad():
        made.W_enc.copy_(read * rows.norm(dim=1, keepdim=True))
    return made


@sparsifier("nearest")
@dataclass(frozen=True)
class Nearest:
    """1 for the nearest decoder row and 0 for all others: b_enc is -|row|^2 / 2."""

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        values, indices = kernels.encode_topk(x, d.W_enc, d.b_enc, 1, d.b_dec)
        return Codes(torch.ones_like(values), indices)


@method("k-means", family="dictionary", title="k-means (vector quantisation)", paper="Lloyd 1982")
def KMeans(x: Tensor, width: int = 256, seed: int = 0) -> Dictionary:
    """Each activation is its nearest centre, so that L0 is 1. x: [n, d]; width: centres; seed: of where they begin."""
    from sklearn.cluster import MiniBatchKMeans
    fit = MiniBatchKMeans(width, random_state=seed, n_init=1, batch_size=4096).fit(_numpy(x))
    centers = torch.from_numpy(fit.cluster_centers_)
    made = with_rows(centers.float(), Nearest())
    with torch.no_grad():
        for rows in (made.W_enc, made.W_dec):
            rows.copy_(centers)
        made.b_enc.copy_(-centers.pow(2).sum(1) / 2)
    return made


@method("nmf", family="dictionary", title="Non-negative matrix factorisation", paper="Lee & Seung 1999")
def NMF(x: Tensor, width: int = 256, k: int | None = None, seed: int = 0, iterations: int = 200) -> Dictionary:
    """Non-negative sums of features that are themselves non-negative.

    Activations of both signs are folded about their mean: what lies above it and what lies below it are entries of their own
    (Kim & Tidor 2003), and a feature is the difference of its two halves. Activations that are never negative, such as those
    after a ReLU, are taken as they are.

    x: [n, d]; width: features; k: how many are used for an activation; left out, as many as fit. seed, iterations: of the
    solver.
    """
    import warnings

    from sklearn.decomposition import NMF as Factors
    from sklearn.exceptions import ConvergenceWarning
    x, d = x.float(), x.shape[1]
    signed = bool((x < 0).any())
    center = x.mean(0) if signed else torch.zeros(d)
    if signed:
        x = torch.cat([(x - center).relu(), (center - x).relu()], 1)
    fit = Factors(width, init="nndsvda" if width <= min(x.shape) else "random", random_state=seed, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit.fit(_numpy(x))
    rows = torch.from_numpy(fit.components_).float()
    return with_rows(rows[:, :d] - rows[:, d:] if signed else rows, NonNegative(k), center)


@method("semi-nmf", family="dictionary", title="Convex and semi-nonnegative matrix factorizations",
        paper="Ding, Li & Jordan 2010")
def SemiNMF(x: Tensor, width: int = 256, k: int | None = None, seed: int = 0, iterations: int = 200) -> Dictionary:
    """Non-negative sums of features of any sign, all of whose entries stay, about the mean.

    x: [n, d]; width: features; k: how many are used for an activation; left out, as many as fit. seed, iterations: of the
    updates, which are those of `snmf`, since scikit-learn has none.
    """
    center = x.float().mean(0)
    made = SNMF(x.float() - center, width, keep=1.0, iterations=iterations, seed=seed)
    return with_rows(made.W_dec, replace(made.sparsify, k=k), center)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
