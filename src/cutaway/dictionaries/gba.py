"""Group bias adaptation: biases are not learned but moved, until each group of latents fires as often as it should."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import kernels
from ..catalogue import method
from .codes import Codes
from .jump import Jump
from .parts import SquaredError, sparsifier
from .recipe import Recipe
from .steering import steer

if TYPE_CHECKING:
    from .dictionary import Dictionary


GAIN, SHARES = -0.1, (0.1, 10.0)    # of a step of how many times biases are taken, and its bounds
SETTLED = 0.9                       # the share of training after which biases move no more but by that
MOST = 0.5                          # the highest target frequency


@sparsifier("group-bias")
@dataclass(frozen=True)
class GroupBias:
    """Latents fire where y = w . (x - b_dec) + b is positive, with the value exp(r) * w . (x - b_dec).

    A latent of group g (its index modulo the number of groups) should fire for the share `targets[g]` of tokens. Every `every`
    batches, with p its share since the last time and r its largest y: p > target lowers b by step * r; a latent that never
    fired gets the group's mean of step * r; others are left alone (arXiv 2506.14002, algorithm 1). b is `b_enc`, which has no
    gradient, within [-sqrt(d), 0]; r is `extra["r"]` and begins at log `start`, small, so that at first each latent follows the
    data and not what others leave over; `extra["fired"]`, `extra["peak"]` and `extra["seen"]` (tokens and batches) are what
    was counted since. Biases are taken `extra["share"]` times, which is steered until as many fire as the targets add up to; in
    the last tenth of training nothing else moves them.
    """

    targets: tuple[float, ...]
    every: int = 10
    step: float = 0.05
    start: float = 0.1

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"r": torch.full((width,), log(self.start)), "fired": torch.zeros(width), "peak": torch.zeros(width),
                "seen": torch.zeros(2), "share": torch.ones(1)}

    def with_l0(self, l0: float, width: int) -> GroupBias:
        return replace(self, targets=tuple(min(MOST, target * l0 / self.l0(width)) for target in self.targets))

    def bias(self, d: Dictionary) -> Tensor:
        """What is added to w . (x - b_dec) to decide whether a latent fires: [width], never positive."""
        return (d.extra["share"] * d.b_enc).detach()

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        bias = self.bias(d)
        z, indices = kernels.encode_above(x, d.W_enc, torch.zeros_like(bias), -bias, d.b_dec)
        return Codes(kernels.at(d.extra["r"].exp(), indices) * z, indices)

    def after(self, d: Dictionary, codes: Codes, progress: float) -> None:
        fired, peak, seen = (d.extra[name].data for name in ("fired", "peak", "seen"))
        steer(d.extra["share"].data, float(codes.l0.float().mean()), self.l0(d.width), GAIN, SHARES)
        y = codes.values / d.extra["r"].data.exp()[codes.indices] + d.b_enc.data[codes.indices]
        fires = codes.values != 0
        fired.add_(codes.counts(d.width))
        peak.scatter_reduce_(0, codes.indices[fires], y[fires], "amax")
        seen.add_(torch.tensor([len(y), 1.0], device=seen.device))
        if seen[1] >= self.every and progress < SETTLED:
            self.adapt(d, fired / seen[0].clamp(min=1), peak)
            for tally in (fired, peak, seen):
                tally.zero_()

    def l0(self, width: int) -> float:
        """How many latents fire for each token when all meet their targets."""
        return sum(self.targets) * width / len(self.targets)

    def adapt(self, d: Dictionary, share: Tensor, peak: Tensor) -> None:
        """Move the biases, from how often latents fired and their largest y, both [width]."""
        n = len(self.targets)
        group = torch.arange(d.width, device=peak.device) % n
        target = torch.tensor(self.targets, device=peak.device)[group]
        total, count = (peak.new_zeros(n).index_add_(0, group, part) for part in (peak, (peak > 0).float()))
        mean = (total / count.clamp(min=1))[group]
        move = torch.where(share > target, -peak, torch.where(share == 0, mean, 0))
        d.b_enc.data.add_(self.step * move).clamp_(-d.d**0.5, 0)

    def inference(self, d: Dictionary) -> Dictionary:
        """The same codes as a JumpReLU dictionary."""
        scale = d.extra["r"].exp()
        return d.with_sparsifier(Jump(), {"threshold": -scale * self.bias(d)}, W_enc=scale[:, None] * d.W_enc,
                                 b_enc=torch.zeros_like(d.b_enc))


def frequencies(l0: float, width: int, groups: int, spread: float) -> tuple[float, ...]:
    """Target frequencies, a falling geometric series from the first group to 1 / spread of it, which give the L0."""
    series = [spread ** (-i / max(1, groups - 1)) for i in range(groups)]
    return tuple(min(MOST, value * l0 / width * groups / sum(series)) for value in series)


@method("gba", family="dictionary", roster="114", paper="arXiv 2506.14002",
        title="Taming polysemanticity in LLMs: provable feature recovery via sparse autoencoders")
def GBA(width: int = 4096, l0: float = 32.0, groups: int = 10, spread: float = 100.0, every: int = 10, step: float = 0.05,
        lr: float | None = None, initial: str = "data") -> Recipe:
    """Latents with tied directions and scales of their own fire as often as their group's target frequency says.

    x_hat = sum_m a_m w_m (w_m . (x - b_dec)) 1[w_m . (x - b_dec) + b_m > 0] + b_dec; loss = FVU, without a sparsity term. The
    biases b follow the targets; w, a and b_dec learn. The finished dictionary is the equal JumpReLU dictionary.

    width: latents. l0: how many fire for each token on average: the sum of the targets. groups: of latents; 1 is bias
    adaptation without groups. spread: how many times as often the first group may fire as the last. every: batches between
    two adaptations; step: of the biases, as a share of a latent's largest pre-activation. lr: Adam's learning rate; left out,
    by the scaling rule. initial: decoder rows from `data` or `random`.
    Differs from the paper: one scale for all tokens in place of unit norms; a = exp(r) > 0; every 10 batches by 0.05 in
    place of every 50 by 0.01, since runs here are a hundredth as long; a starts at 0.1. The control is one-sided, as there,
    so that L0 alone would end somewhat below the sum of the targets; a common factor on the biases makes up for that, and alone
    moves them in the last tenth of training.
    """
    if not 0 < l0 <= width or groups < 1 or spread < 1:
        raise ValueError(f"l0 is above 0 and at most the width {width}, with groups and spread at least 1; found l0={l0}, "
                         f"groups={groups}, spread={spread}.")
    part = GroupBias(frequencies(l0, width, groups, spread), every, step)
    return Recipe("gba", width, part, (SquaredError(),), tied=True, lr=lr, initial=initial)
