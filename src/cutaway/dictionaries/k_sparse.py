"""The k-sparse autoencoder of 2013."""

from __future__ import annotations

from ..catalogue import method
from .parts import LargestLinear, SquaredError
from .recipe import Recipe


@method("k-sparse", family="dictionary", title="k-Sparse Autoencoders", paper="arXiv 1312.5663", roster="244")
def KSparse(width: int = 1024, k: int = 25, first: int | None = None, lr: float | None = None,
            initial: str = "random") -> Recipe:
    """A linear autoencoder with tied weights, of which the k largest hidden units are kept, whatever their sign.

    u = W x + b, z = u on the k largest entries and 0 elsewhere, x_hat = W^T z + b' (section 2.1).

    width: hidden units. k: how many are kept. first: begin with so many and fall to k over the first half of training
    (section 4.2.1: against dead units at small k); left out, 4k. lr: Adam's learning rate; left out, by the scaling rule.
    initial: decoder rows from `random` or `data`.
    Differs from the paper: Adam instead of SGD with momentum, the bias is also subtracted from the input, and rows have no
    norm constraint but begin at unit norm.
    """
    first = min(width, 4 * k) if first is None else first
    return Recipe("k-sparse", width, LargestLinear(k, first), (SquaredError(),), unit_norm=False, tied=True, lr=lr,
                  initial=initial)
