"""Semi-nonnegative matrix factorisation of activations: features of any sign, used only positively."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ..catalogue import method
from .dictionary import Dictionary, Facts
from .non_negative import NonNegative

EPS, GAIN = 1e-6, 1e-4


class Factors(NamedTuple):
    """x is about uses @ features: features [k, d] of any sign, uses [n, k] at least 0; error: by iteration, |x - x_hat|^2."""

    features: Tensor
    uses: Tensor
    error: list[float]


@torch.no_grad()
def factorise(x: Tensor, k: int, keep: float = 0.01, iterations: int = 500, patience: int = 100, seed: int = 0) -> Factors:
    """Factors of x [n, d], the best that were seen; it ends after `patience` iterations without one that is better by 1e-4.

    Each iteration: features by least squares; of each the `keep` share of entries that are largest by magnitude stay; uses
    get unit norms, which go to the features; uses times sqrt((P+ + G Q-) / (P- + G Q+)), P = x F, Q = F^T F (Ding et al. 2010).
    """
    generator = torch.Generator().manual_seed(seed)
    uses = torch.rand(len(x), k, generator=generator).to(x).clamp(min=EPS)
    most, best, since, errors = ceil(keep * x.shape[1]), None, 0, []
    for _ in range(iterations):
        features = torch.linalg.solve(uses.T @ uses + EPS * torch.eye(k).to(x), uses.T @ x)
        if most < x.shape[1]:
            least = features.abs().topk(most, dim=1).values[:, -1:]
            features = torch.where(features.abs() >= least, features, 0)
        norms = uses.norm(dim=0).clamp(min=EPS)
        uses, features = uses / norms, features * norms[:, None]
        p, q = x @ features.T, features @ features.T
        uses = uses * ((p.relu() + uses @ (-q).relu()) / ((-p).relu() + uses @ q.relu() + EPS)).sqrt()
        errors.append(float((x - uses @ features).pow(2).sum()))
        if best is None or errors[-1] < best[0] - GAIN:
            best, since = (errors[-1], features, uses), 0
        else:
            since += 1
            if since >= patience:
                break
    if best is None:
        raise ValueError(f"a factorisation takes at least one iteration; found {iterations}.")
    return Factors(best[1], best[2], errors)


@method("snmf", family="dictionary", title="Decomposing MLP activations into interpretable features via semi-nonnegative "
        "matrix factorization", paper="arXiv 2506.10920", roster="177")
def SNMF(x: Tensor, width: int = 100, k: int | None = None, keep: float = 0.01, iterations: int = 500, patience: int = 100,
         seed: int = 0) -> Dictionary:
    """Activations are non-negative sums of features, each of which is a sparse combination of neurons.

    x ~ G F, G >= 0 (section 3); see `factorise` for the updates. Features are rows of unit norm; a new activation's code is
    its non-negative least-squares fit, and of that the k largest, where k is given.

    x: [n, d], activations such as `blocks.2.mlp.neurons`; they are neither centred nor scaled, and should hold no begin
    tokens. width: features. k: how many may be used for an activation; left out, as many as fit. keep: share of a feature's
    entries that stay (winner takes all). iterations, patience: as in `factorise`. seed: of where uses begin.
    Differs from the authors' code: new activations are fitted by non-negative least squares; it has no rule for them.
    """
    if width < 1:
        raise ValueError(f"at least one feature is learned; found width={width}.")
    found = factorise(x.float(), width, keep, iterations, patience, seed)
    return with_rows(found.features, NonNegative(k))


@torch.no_grad()
def with_rows(rows: Tensor, sparsify: object, center: Tensor | None = None) -> Dictionary:
    """A dictionary of unit rows along these [width, d], about a center [d]."""
    made = Dictionary(rows.shape[1], len(rows), sparsify, Facts())
    made.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
    made.W_enc.copy_(made.W_dec)
    if center is not None:
        made.b_dec.copy_(center)
    return made.requires_grad_(False)
