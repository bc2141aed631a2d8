"""JumpReLU: a latent fires where its pre-activation passes a threshold of its own, which is learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

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


class _Jump(torch.autograd.Function):
    """z where z > threshold, else 0; the threshold's gradient is -(threshold / e) K((z - threshold) / e) (equation 11)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: Tensor) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(z > threshold, z, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        z, threshold = ctx.saved_tensors
        near = (z - threshold).abs() < ctx.bandwidth / 2
        return torch.where(z > threshold, grads[0], 0), torch.where(near, -threshold / ctx.bandwidth * grads[0], 0), None


class _Step(torch.autograd.Function):
    """1 where z > threshold, else 0; the threshold's gradient is -(1 / e) K((z - threshold) / e) (equation 12)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: Tensor) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        z, threshold = ctx.saved_tensors
        near = (z - threshold).abs() < ctx.bandwidth / 2
        return None, torch.where(near, -grads[0] / ctx.bandwidth, 0), None


PACE = 10.0   # how many times faster than weights the logarithms of thresholds learn: enough for L0 to settle in 100 steps


@sparsifier("jumprelu-learning")
@dataclass(frozen=True)
class LearningJump:
    """`jump.Jump` with thresholds unit * exp(log_threshold) [width] that learn (arXiv 2407.14435, section 3).

    share: of the latents that fire for a token at the start, when all have one threshold. bandwidth: width of the kernel K, a
    rectangle, through which they learn, as a multiple of their mean. The codes' `aside` says what fires, with a gradient.
    """

    bandwidth: float
    share: float
    units: ClassVar[tuple[str, ...]] = ("unit",)

    def with_l0(self, l0: float, width: int) -> LearningJump:
        return replace(self, share=l0 / width)

    def tensors(self, width: int) -> dict[str, Tensor]:
        return {"log_threshold": torch.zeros(width), "unit": torch.ones(1)}

    def begin(self, x: Tensor, d: Dictionary) -> None:
        """Set the thresholds from what the rows of the encoder that training begins with are multiplied with, x [n, d]."""
        z = torch.addmm(d.b_enc, x, d.W_enc.T).flatten()
        d.extra["unit"].fill_(float(z.topk(max(1, round(self.share * len(z)))).values[-1].clamp(min=1e-6)))

    def __call__(self, x: Tensor, d: Dictionary, progress: float = 1.0) -> Codes:
        # What lies within half a bandwidth below the threshold does not fire, but moves it.
        threshold = thresholds(d)
        bandwidth = self.bandwidth * threshold.detach().mean()
        z, indices = kernels.encode_above(x, d.W_enc, d.b_enc, threshold.detach() - bandwidth / 2, d.b_dec)
        at, real = kernels.at(threshold, indices), z != 0
        fires = torch.where(real, _Step.apply(z, at, bandwidth), 0)
        return Codes(torch.where(real, _Jump.apply(z, at, bandwidth), 0), indices, fires)

    def above(self, d: Dictionary, codes: Codes) -> Tensor:
        """How far each latent that fires lies above its threshold: [n, k]; 0 for others."""
        return torch.where(codes.values > 0, codes.values - thresholds(d).detach()[codes.indices], 0)

    def inference(self, d: Dictionary) -> Dictionary:
        """The dictionary as it is used: thresholds learn no more."""
        return d.with_sparsifier(Jump(), {"threshold": thresholds(d).detach()})


def thresholds(d: Dictionary) -> Tensor:
    """The thresholds [width] of a dictionary that learns them; their unit does not learn."""
    return d.extra["unit"].detach() * (PACE * d.extra["log_threshold"]).exp()


def count(p: Pass) -> Tensor:
    """How many latents fire for a token (equation 9)."""
    assert p.codes.aside is not None
    return p.codes.aside.sum() / len(p.x)


def bounded(p: Pass) -> Tensor:
    """The sum of tanh(4 z_i |W_dec_i|) for a token (transformer-circuits.pub, January 2025 update)."""
    norms = p.dictionary.W_dec.norm(dim=1)
    return torch.tanh(4 * p.codes.values * kernels.at(norms, p.codes.indices)).sum() / len(p.x)


COUNTS = {"step": count, "tanh": bounded, "quadratic": count}


@dataclass(frozen=True)
class Firing:
    """A penalty on how many latents fire: `coefficient` times n / l0, or in its quadratic form times (n / l0 - 1)^2.

    quadratic: section 6 of arXiv 2407.14435. The penalty is warmed up linearly over the first `warmup` of the training.
    """

    coefficient: float
    l0: float
    kind: str = "step"
    warmup: float = 0.1

    @property
    def steers(self) -> bool:
        return self.kind != "quadratic"

    def with_l0(self, l0: float, width: int) -> Firing:
        return replace(self, l0=l0)

    def __call__(self, p: Pass) -> Tensor:
        n = COUNTS[self.kind](p) / self.l0
        share = p.risen(self.warmup)
        if self.kind == "quadratic":
            return self.coefficient * share * (n - 1) ** 2
        return self.coefficient * share * p.penalty * n


@method("jumprelu", family="dictionary", title="Jumping ahead: improving reconstruction fidelity with JumpReLU",
        paper="arXiv 2407.14435")
def JumpReLU(width: int = 4096, l0: float = 32.0, penalty: float = 1.0, kind: str = "quadratic", bandwidth: float = 0.6,
             lr: float | None = None, initial: str = "data") -> Recipe:
    """A latent fires where its pre-activation passes a threshold of its own; how many fire is penalised directly.

    z_j = u_j H(u_j - theta_j), u = W_enc (x - b_dec) + b_enc (section 3); loss = FVU + penalty * (|z|_0 / l0 - 1)^2
    (section 6), with straight-through gradients for the thresholds (equations 11 and 12).

    width: latents. l0: how many should fire for each token on average. penalty: its weight; at 1 L0 ends within a few
    percent of l0. kind: `quadratic`; `step`, which counts firing latents (equation 9); or `tanh`, the penalty of the January
    2025 update of transformer-circuits.pub; the last two are steered until L0 is l0, which takes long trainings.
    bandwidth: of the gradients, as a multiple of the mean threshold. lr: Adam's learning rate; left out, by the scaling rule.
    initial: decoder rows from `data` or `random`.
    Differs from the paper: thresholds begin where l0 latents fire for a token, not at 0.001; their logarithms learn ten times
    faster than the weights; the bandwidth, 0.001 there, goes with their mean; and Adam's first moment decays at 0.9.
    """
    if kind not in COUNTS:
        raise ValueError(f"the penalty is one of {', '.join(COUNTS)}; found {kind!r}.")
    if not 0 < l0 <= width:
        raise ValueError(f"an L0 is from 0 (not included) to the width {width}; found l0={l0}.")
    if bandwidth <= 0:
        raise ValueError(f"thresholds learn through a bandwidth above 0; found {bandwidth}.")
    losses = (SquaredError(), Firing(penalty, l0, kind))
    return Recipe("jumprelu", width, LearningJump(bandwidth, l0 / width), losses, lr=lr,
                  l0=None if kind == "quadratic" else l0, initial=initial)
