"""p-annealing: the penalty on activations begins as L1 and ends near a count of what fires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .. import kernels
from ..catalogue import method
from .parts import Pass, ReLU, SquaredError
from .recipe import Recipe

LEAST = 1e-2    # activations below this share of the mean one are taken as that, where the power's slope would be without bound


@dataclass(frozen=True)
class Annealed:
    """sum_i |z_i|^p, with p falling from 1 to `end` over the training from `start` on (arXiv 2408.00113, section 3.2).

    Activations are weighted by the decoder's norms and divided by the root of the variance; the power's sum is scaled so
    that the penalty keeps the size of the L1 penalty on the same batch.
    """

    coefficient: float
    end: float = 0.2
    start: float = 0.1
    warmup: float = 0.05
    steers: ClassVar[bool] = True

    def __call__(self, p: Pass) -> Tensor:
        norms = p.dictionary.W_dec.norm(dim=1)
        weighted = p.codes.values.abs() * kernels.at(norms, p.codes.indices) / p.variance**0.5
        share = p.risen(self.warmup)
        power = 1 - (1 - self.end) * min(max((p.progress - self.start) / (1 - self.start), 0.0), 1.0)
        fires = weighted > 0
        total = weighted.detach().sum()
        least = LEAST * total / fires.sum().clamp(min=1)
        powers = weighted.clamp(min=float(least)).pow(power)[fires].sum()
        scale = total / powers.detach().clamp(min=1e-12)
        return self.coefficient * p.penalty * share * scale * powers / len(p.x)


@method("p-annealed", family="dictionary", title="Measuring progress in dictionary learning for language model "
        "interpretability with board game models", paper="arXiv 2408.00113")
def PAnnealed(width: int = 4096, l1: float = 0.3, l0: float | None = None, end: float = 0.2, lr: float | None = None,
              initial: str = "data") -> Recipe:
    """All positive latents reconstruct the token, under a penalty that turns from their sum into nearly their number.

    loss = FVU + l1 * sum_i z_i^p, p from 1 to `end` (section 3.2).

    width: latents. l1: weight of the penalty. l0: how many should fire for each token on average; the penalty is then
    steered until they do. end: the last p. lr: Adam's learning rate; left out, by the scaling rule. initial: decoder rows
    from `data` or `random`.
    Differs from the authors' code: the weight that keeps the penalty's size is of this batch and not of a queue of
    earlier ones, p falls at every step, and activations below 1% of the mean one have no slope.
    """
    if not 0 < end <= 1:
        raise ValueError(f"the last p lies above 0 and is at most 1; found end={end}.")
    return Recipe("p-annealed", width, ReLU(), (SquaredError(), Annealed(l1, end)), lr=lr, l0=l0, initial=initial)
