"""Gated: which latents fire and how strongly are computed apart, so that a penalty on the first does not shrink the second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .jump import Jump
from .parts import Pass, SquaredError, sparsifier
from .recipe import Recipe

if TYPE_CHECKING:
    from .dictionary import Dictionary


@sparsifier("gated")
@dataclass(frozen=True)
class Gate:
    """Latents whose gate W_enc (x - b_dec) + b_enc is positive, with magnitudes of their own (arXiv 2404.16014, section 3.2).

    magnitude = ReLU(exp(r) * W_enc (x - b_dec) + b_mag), equation 7; r and b_mag are `extra["r"]` and `extra["b_mag"]`.
    """

    units: ClassVar[tuple[str, ...]] = ("b_mag",)

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"r": torch.zeros(width), "b_mag": torch.zeros(width)}

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        gate, indices = kernels.encode_positive(x, d.W_enc, d.b_enc, d.b_dec)
        # The gate itself learns from its own loss terms alone, so the magnitude must not pass a gradient to b_enc.
        product = gate - kernels.at(d.b_enc, indices)
        magnitude = (kernels.at(d.extra["r"].exp(), indices) * product + kernels.at(d.extra["b_mag"], indices)).relu()
        return Codes(torch.where(gate > 0, magnitude, 0), indices, gate)

    def above(self, d: Dictionary, codes: Codes) -> Tensor:
        """How far each latent that fires lies above where it begins to: [n, k]; 0 for others."""
        assert codes.aside is not None
        return codes.aside

    def inference(self, d: Dictionary) -> Dictionary:
        """The same codes as a JumpReLU dictionary (section 3.2 and appendix H)."""
        scale = d.extra["r"].exp()
        threshold = (d.extra["b_mag"] - scale * d.b_enc).clamp(min=0)
        return d.with_sparsifier(Jump(), {"threshold": threshold}, W_enc=scale[:, None] * d.W_enc, b_enc=d.extra["b_mag"])


@dataclass(frozen=True)
class GateLoss:
    """The sparsity penalty on the gates, and their own reconstruction through a decoder that they do not move (equation 8)."""

    coefficient: float
    warmup: float = 0.05
    steers: ClassVar[bool] = True

    def __call__(self, p: Pass) -> Tensor:
        d, gate = p.dictionary, p.codes.aside
        assert gate is not None
        share = p.risen(self.warmup)
        sparsity = self.coefficient * p.penalty * share * gate.sum() / len(p.x) / p.variance**0.5
        # What the decoder adds for each token beside the latents and the bias, where there is a skip connection, stays too.
        start = getattr(p.codes, "start", None)
        y = p.y if start is None else p.y - (start - d.b_dec).detach()
        own, _ = kernels.squared_error(gate, p.codes.indices, d.W_dec.detach(), d.b_dec.detach(), y)
        return sparsity + own / (len(p.x) * p.variance)


@method("gated", family="dictionary", title="Improving dictionary learning with gated sparse autoencoders",
        paper="arXiv 2404.16014")
def Gated(width: int = 4096, l1: float = 0.3, l0: float | None = None, lr: float | None = None,
          initial: str = "data") -> Recipe:
    """Gates say which latents fire, and magnitudes, which share the gates' directions, how strongly.

    loss = FVU + l1 * |ReLU(gates)|_1 / sd(x) + FVU of the gates' own reconstruction by a frozen decoder (equation 8).
    The finished dictionary is the equal JumpReLU dictionary.

    width: latents. l1: weight of the penalty. l0: how many latents should fire for each token on average; the penalty is
    then steered until they do. lr: Adam's learning rate. initial: decoder rows from `data` or `random`.
    """
    return Recipe("gated", width, Gate(), (SquaredError(), GateLoss(l1)), lr=lr, l0=l0, initial=initial)
