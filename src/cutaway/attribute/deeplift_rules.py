"""DeepLIFT's rules: how differences go forwards through one operation, and multipliers back.

Every tensor has its value on the input and on the reference, and its difference in two parts, positive and negative; going
back there are two multipliers for the two parts. Sections 3.5.1 to 3.5.3 of arXiv 1704.02685.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 1e-7      # a difference smaller than this counts as none, as in the authors' code


@dataclass(frozen=True, eq=False)
class Seen:
    """A tensor on the input and on the reference, and the parts of its difference: value - reference = plus + minus."""

    value: Tensor
    reference: Tensor
    plus: Tensor
    minus: Tensor

    @property
    def difference(self) -> Tensor:
        return self.value - self.reference


Multipliers = tuple[Tensor, Tensor]      # of the positive and of the negative part
Back = Callable[[Multipliers], tuple[Multipliers, ...]]
Linear = Callable[[Tensor, Tensor | None], Tensor]      # (x, weight) -> W x without the bias


def start(value: Tensor, reference: Tensor) -> Seen:
    """A tensor whose difference is all positive or all negative, number by number."""
    difference = value - reference
    return Seen(value, reference, difference.clamp(min=0), difference.clamp(max=0))


# --- rules: (operation, what is seen of its inputs, value, reference) -> what is seen after it, and the way back --------------


def weighted(apply: Linear, weight: Tensor, x: Seen, value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
    """The linear rule: an input's whole difference goes to the part of the output that its weight gives it the sign of."""
    up, down, dx = weight.clamp(min=0), weight.clamp(max=0), x.difference
    rises, falls = dx.clamp(min=0), dx.clamp(max=0)
    plus, minus = apply(rises, up) + apply(falls, down), apply(rises, down) + apply(falls, up)

    def back(m: Multipliers) -> tuple[Multipliers, ...]:
        up_plus, up_minus = (_transposed(apply, up, dx, part) for part in m)
        down_plus, down_minus = (_transposed(apply, down, dx, part) for part in m)
        rising, falling = up_plus + down_minus, up_minus + down_plus
        both = torch.where(dx > 0, rising, torch.where(dx < 0, falling, (rising + falling) / 2))
        return ((both, both),)
    return Seen(value, reference, plus, minus), back


def _transposed(apply: Linear, weight: Tensor | None, x: Tensor, m: Tensor) -> Tensor:
    """The transpose of x -> apply(x, weight), on m."""
    with torch.enable_grad():
        probe = torch.zeros_like(x, requires_grad=True)
        return torch.autograd.grad(apply(probe, weight), probe, m)[0]


def moved(apply: Callable[[Tensor], Tensor], x: Seen, value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
    """A linear map without negative weights (reshaping, means, average pooling): both parts go through it as they are."""
    def back(m: Multipliers) -> tuple[Multipliers, ...]:
        plus, minus = (_transposed(lambda x, _: apply(x), None, x.value, part) for part in m)
        return ((plus, minus),)
    zero = apply(torch.zeros_like(x.plus))
    return Seen(value, reference, apply(x.plus) - zero, apply(x.minus) - zero), back


def scaled(scale: Tensor, x: Seen, value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
    """A scale for each number (batch norm): where it is negative the parts change places."""
    up, down = scale.clamp(min=0), scale.clamp(max=0)

    def back(m: Multipliers) -> tuple[Multipliers, ...]:
        return ((up * m[0] + down * m[1], up * m[1] + down * m[0]),)
    return Seen(value, reference, up * x.plus + down * x.minus, up * x.minus + down * x.plus), back


def added(sign: int, a: Seen, b: Seen, value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
    """The sum of two tensors, or their difference (sign -1)."""
    parts = (b.plus, b.minus) if sign > 0 else (-b.minus, -b.plus)

    def back(m: Multipliers) -> tuple[Multipliers, ...]:
        return m, (m if sign > 0 else (-m[1], -m[0]))
    return Seen(value, reference, a.plus + parts[0], a.minus + parts[1]), back


def rescaled(f: Callable[[Tensor], Tensor], x: Seen, value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
    """The rescale rule: both parts have the multiplier dy / dx, which is the gradient where there is no difference."""
    dx = x.difference
    slope = torch.where(dx.abs() < NEAR, _slope(f, x.reference), (value - reference) / _safe(dx))

    def back(m: Multipliers) -> tuple[Multipliers, ...]:
        # Where the slope is negative, the positive part of the output was made by the negative part of the input.
        return ((torch.where(slope >= 0, m[0], m[1]) * slope, torch.where(slope >= 0, m[1], m[0]) * slope),)
    parts = (slope * x.plus, slope * x.minus)
    plus, minus = (torch.where(slope >= 0, a, b) for a, b in (parts, parts[::-1]))
    return Seen(value, reference, plus, minus), back


def revealed(f: Callable[[Tensor], Tensor], x: Seen, value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
    """The reveal-cancel rule: each part's effect before and after the other part has acted, on average."""
    rest, low, high = f(x.reference), f(x.reference + x.minus), f(x.reference + x.plus)
    whole = f(x.reference + x.plus + x.minus)
    plus, minus = (high - rest + whole - low) / 2, (low - rest + whole - high) / 2
    grade = _slope(f, x.reference)
    up, down = (torch.where(dx.abs() < NEAR, grade, dy / _safe(dx)) for dx, dy in ((x.plus, plus), (x.minus, minus)))

    def back(m: Multipliers) -> tuple[Multipliers, ...]:
        return ((m[0] * up, m[1] * down),)
    return Seen(value, reference, plus, minus), back


def pooled(pool: Callable[[Tensor], tuple[Tensor, Tensor]], x: Seen, value: Tensor, reference: Tensor) -> tuple[Seen, Back]:
    """The largest of some numbers: the change belongs to the number that won, on the side where the winner is larger."""
    (_, here), (_, there) = pool(x.value), pool(x.reference)
    dy, winner = value - reference, torch.where(value >= reference, here, there)
    dx = x.difference.flatten(2).gather(2, winner.flatten(2)).view_as(dy)
    slope = torch.where(dx.abs() < NEAR, 0, dy / _safe(dx))

    def back(m: Multipliers) -> tuple[Multipliers, ...]:
        part = torch.where(dy >= 0, m[0], m[1]) * slope
        both = torch.zeros_like(x.value).flatten(2).scatter_add(2, winner.flatten(2), part.flatten(2)).view_as(x.value)
        return ((both, both),)
    return start(value, reference), back


def _slope(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        probe = x.detach().clone().requires_grad_()
        return torch.autograd.grad(f(probe).sum(), probe)[0]


def _safe(x: Tensor) -> Tensor:
    return torch.where(x.abs() < NEAR, 1, x)
