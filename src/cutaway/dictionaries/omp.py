"""Orthogonal matching pursuit at inference: any dictionary's rows, and the codes that fit them best step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..catalogue import method
from .codes import Codes
from .parts import sparsifier

if TYPE_CHECKING:
    from .dictionary import Dictionary

NUMBERS = 2**24     # of the bases that are held at once
LEAST = 1e-4        # a row of which less than this share is new adds nothing


@sparsifier("omp")
@dataclass(frozen=True)
class OrthogonalPursuit:
    """k steps: the row with the largest cosine with what is left joins, and all values are fitted again by least squares.

    Pati, Rezaiifar and Krishnaprasad 1993. Values may have either sign; the error falls with every step, and what is left is
    orthogonal to all rows that were chosen. The encoder is not used.
    """

    k: int

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        if d.b_dec is None or not hasattr(d, "W_dec"):
            raise ValueError("matching pursuit fits what a dictionary reads, and this one writes something else.")
        k = min(self.k, *d.W_dec.shape)
        parts = (x - d.b_dec).split(max(1, NUMBERS // (k * x.shape[-1])))
        found = [pursuit(part, d.W_dec.detach(), k) for part in parts]
        return Codes(*(torch.cat(some) for some in zip(*found, strict=True)))


@torch.no_grad()
def pursuit(x: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [n, k] of x [n, d] by rows [width, d]; what is orthogonal so far is kept by Gram-Schmidt, done
    twice."""
    lengths = rows.norm(dim=1).clamp(min=1e-12)
    unit, n = rows / lengths[:, None], len(x)
    left, basis, upper = x.clone(), x.new_zeros(n, k, x.shape[1]), torch.eye(k, dtype=x.dtype, device=x.device).repeat(n, 1, 1)
    along, indices = x.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64, device=x.device)
    for j in range(k):
        cosines = (left @ unit.T).abs().scatter_(1, indices[:, :j], -1.0)
        indices[:, j] = cosines.argmax(1)
        new, inside = unit[indices[:, j]], x.new_zeros(n, j)
        for _ in range(2):
            share = torch.einsum("njd,nd->nj", basis[:, :j], new)
            new, inside = new - torch.einsum("nj,njd->nd", share, basis[:, :j]), inside + share
        size = new.norm(dim=1, keepdim=True)
        fits = size > LEAST
        basis[:, j] = torch.where(fits, new / size.clamp(min=LEAST), 0)
        upper[:, :j, j], upper[:, j, j] = inside, torch.where(fits, size, 1)[:, 0]
        along[:, j] = (basis[:, j] * left).sum(1)
        left = left - along[:, j, None] * basis[:, j]
    values = torch.linalg.solve_triangular(upper, along[..., None], upper=True)[..., 0]
    return values / lengths[indices], indices


@method("omp", family="dictionary", title="Orthogonal matching pursuit", paper="Pati, Rezaiifar & Krishnaprasad 1993")
def OMP(dictionary: Dictionary, k: int = 32) -> Dictionary:
    """The same dictionary with codes by orthogonal matching pursuit, which reconstruct better than any encoder's.

    dictionary: of one site, or a crosscoder, learned in whatever way. k: latents of each token. How much closer it comes is how
    much of the error is the encoder's and not the rows'. Raises ValueError for transcoders, whose codes are of what they read.
    """
    if dictionary.reads != dictionary.writes:
        raise ValueError(f"matching pursuit fits what a dictionary reads, and this one reads {', '.join(dictionary.reads)} and "
                         f"writes {', '.join(dictionary.writes)}.")
    if not 1 <= k <= dictionary.width:
        raise ValueError(f"k must be between 1 and the width {dictionary.width}; found {k}.")
    return dictionary.with_sparsifier(OrthogonalPursuit(k), {}).requires_grad_(False)
