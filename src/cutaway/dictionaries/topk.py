"""The TopK autoencoder."""

from __future__ import annotations

from ..catalogue import method
from .parts import MultiTopK, SquaredError, auxiliary_terms
from .parts import TopK as TopKPart
from .recipe import Recipe


@method("topk", family="dictionary", title="Scaling and evaluating sparse autoencoders", paper="arXiv 2406.04093",
        roster="237")
def TopK(width: int = 4096, k: int = 32, aux: float = 1 / 32, dead_after: int | None = None, first: int | None = None,
         lr: float | None = None, initial: str = "data", multi: float = 0.0) -> Recipe:
    """The k largest latents of each token reconstruct it; dead latents learn from what is left over.

    z = ReLU(TopK(W_enc (x - b_dec) + b_enc)), x_hat = z W_dec + b_dec (section 2.3); loss = FVU + aux * AuxK (appendix
    A.2). Decoder rows have unit norm.

    width: latents. k: how many fire for each token. aux: weight of the auxiliary loss. dead_after: tokens of silence after
    which a latent is dead; left out, 2% of the training's tokens (the paper's 10M is longer than most runs).
    first: begin with so many latents a token and fall to k over the first half of training; left out, k throughout.
    lr: Adam's learning rate; left out, by the scaling rule. initial: decoder rows from `data` or `random`. multi: weight of the
    error with 4k latents (Multi-TopK; 1/8 in the paper), for use with other k than the one in training.
    Differs from the authors' code: one scale for all tokens instead of a layer norm of each, and no averaged weights.
    """
    losses = (SquaredError(), *((MultiTopK(multi),) if multi else ()), *auxiliary_terms(aux, dead_after))
    return Recipe("topk", width, TopKPart(k, first), losses, lr=lr, initial=initial)
