"""Whitening: dictionaries that learn from activations of the same variance in all directions, and are folded back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .dictionary import Dictionary
from .wiring import Wiring

if TYPE_CHECKING:
    from .recipe import Recipe

LEAST = 1e-3     # of the mean variance: a direction that varies less is stretched as if it varied so much


@torch.no_grad()
def whitening(x: Tensor) -> Tensor:
    """The symmetric matrix m [d, d] with which x @ m has a variance of 1 in every direction (ZCA), of x [n, d]."""
    centred = (x - x.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    values = values.clamp(min=LEAST * float(values.mean()))
    return ((vectors / values.sqrt()) @ vectors.T).to(x.dtype)


def check_whitening(recipe: Recipe) -> None:
    """Refuse recipes whose dictionaries cannot be folded back to give the same codes."""
    if type(recipe.wiring) is not Wiring or getattr(recipe.sparsify, "by_decoder", False):
        raise ValueError("whitening is for dictionaries of one site whose encoder chooses the latents, so that it can be "
                         f"folded into that; {recipe.name} takes whiten=False.")


@torch.no_grad()
def unwhitened(made: Dictionary, m: Tensor) -> Dictionary:
    """The dictionary of x with the same codes as one of x @ m: (x m - b) . w = (x - b m^-1) . (m w), for a symmetric m.

    Its decoder's rows lie in the site's own units, and no longer have norm 1.
    """
    m = m.to(made.W_dec)
    back = torch.linalg.inv(m.double()).to(m)
    return made.with_sparsifier(made.sparsify, dict(made.extra), W_enc=made.W_enc @ m, W_dec=made.W_dec @ back,
                                b_dec=made.b_dec @ back)
