"""The ReLU autoencoder with an L1 penalty: the baseline that every other method is compared with."""

from __future__ import annotations

from ..catalogue import method
from .parts import L1, SquaredError
from .parts import ReLU as ReLUPart
from .recipe import Recipe


@method("relu-l1", family="dictionary", title="Towards Monosemanticity / Sparse autoencoders find interpretable features",
        paper="arXiv 2309.08600; transformer-circuits.pub 2023 and April 2024")
def ReLU(width: int = 4096, l1: float = 0.3, l0: float | None = None, lr: float | None = None,
         initial: str = "data") -> Recipe:
    """All positive latents reconstruct the token, and their sum, weighted by the decoder's norms, is penalised.

    z = ReLU(W_enc (x - b_dec) + b_enc), x_hat = z W_dec + b_dec; loss = FVU + l1 * sum_i z_i |W_dec_i| / sd(x), with the
    penalty warmed up over the first 5% of training.

    width: latents. l1: weight of the penalty. l0: how many latents should fire for each token on average; the penalty is
    then adjusted during training until they do. lr: Adam's learning rate; left out, by the scaling rule.
    initial: decoder rows from `data` or `random`.
    """
    return Recipe("relu-l1", width, ReLUPart(), (SquaredError(), L1(l1)), lr=lr, l0=l0, initial=initial)
