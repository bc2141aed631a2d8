"""Encoding and decoding with gradients that touch only what fired, on whichever backend fits the tensors.

Inside `collecting`, gradients of weights are not multiplied out but kept as products of a code with activations, so that an
optimizer can make, use and forget them row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import reference
from .reference import Product


@dataclass
class Rows:
    """A weight [width, d] whose gradient is collected: as products, and as blocks of rows (indices [m], values [m, d]).

    low: the bfloat16 copy that selects candidates; without one, selection is exact.
    """

    weight: Tensor
    low: Tensor | None = None
    products: list[Product] = field(default_factory=list)
    blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list)


_collected: ContextVar[Sequence[Rows]] = ContextVar("collected", default=())


@contextmanager
def collecting(rows: Sequence[Rows]) -> Iterator[None]:
    """Collect the gradients of these weights, and select with their low-precision copies, in what is encoded inside."""
    token = _collected.set(rows)
    try:
        yield
    finally:
        _collected.reset(token)


def _rows_of(weight: Tensor) -> Rows | None:
    return next((rows for rows in _collected.get() if rows.weight is weight), None)


def backend_of(weight: Tensor) -> ModuleType:
    """The fastest backend for a weight's device and dtype."""
    if weight.dtype == torch.float32 and weight.device.type == "cpu":
        from . import cpu
        return cpu
    if weight.dtype == torch.float32 and weight.device.type == "cuda":
        from . import gpu
        return gpu
    return reference


def fast_pays(weight: Tensor) -> bool:
    """Whether looking for the largest latents in bfloat16 is faster than in float32, for a weight [width, d].

    On CPUs it takes instructions for bfloat16 and a product that is the larger part of the work.
    """
    if weight.dtype != torch.float32 or weight.numel() < 2**18 or len(weight) < 1024:
        return False
    if weight.device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return weight.device.type == "cpu" and any(supported is not None and supported() for supported in known)


Choose = Callable[[ModuleType, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


class _Encode(torch.autograd.Function):
    """Chosen entries of `(x - center) @ weight.T + bias`; which ones are chosen has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None, choose: Choose,
                rows: Rows | None) -> tuple[Tensor, Tensor]:
        x = (x if center is None else x - center).contiguous()
        backend = backend_of(weight)
        values, indices = choose(backend, x, weight.detach(), bias.detach(), None if rows is None else rows.low)
        ctx.save_for_backward(x, weight, indices)
        ctx.mark_non_differentiable(indices)
        ctx.backend, ctx.rows = backend, rows
        return values, indices

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, indices = ctx.saved_tensors
        grad, backend = grads[0].contiguous(), ctx.backend
        grad_x = grad_weight = grad_bias = grad_center = None
        if ctx.needs_input_grad[0]:
            grad_x = backend.combine(grad, indices, weight)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            grad_bias = backend.sums(grad, indices, len(weight))
        if ctx.needs_input_grad[3]:
            grad_center = -(grad_bias @ weight)   # the sum over rows of the gradient for x, without its rows
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(ctx.rows, backend, grad, indices, x, len(weight))
        return grad_x, grad_weight, grad_bias, grad_center, None, None


def _weight_gradient(rows: Rows | None, backend: ModuleType, values: Tensor, indices: Tensor, x: Tensor,
                     width: int) -> Tensor | None:
    if rows is None or reference.is_dense(indices.shape[-1], width):
        return backend.transposed(values, indices, x, width)
    rows.products.append(Product(values, indices, x))
    return None


def encode_by(x: Tensor, weight: Tensor, bias: Tensor, choose: Choose, center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The pre-activations that `choose` (backend, x, weight, bias, low) picks: values and indices [n, k]."""
    return _Encode.apply(x, weight, bias, center, choose, _rows_of(weight))


def encode_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int, center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest pre-activations of each row.

    x: [n, d], center: [d], taken from x; weight: [width, d], bias: [width]; gives values and indices [n, k], in no
    particular order.
    """
    return _Encode.apply(x, weight, bias, center, lambda on, *given: on.largest(*given[:3], k, False, given[3]),
                         _rows_of(weight))


def encode_magnitude(x: Tensor, weight: Tensor, bias: Tensor, k: int,
                     center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k pre-activations of each row that are largest in absolute value; otherwise as `encode_topk`."""
    return _Encode.apply(x, weight, bias, center, lambda on, *given: on.largest(*given[:3], k, True, given[3]),
                         _rows_of(weight))


def encode_above(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor,
                 center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All pre-activations above each latent's threshold [width]: values and indices [n, k], zeros where a row has fewer."""
    values, indices = _Encode.apply(x, weight, bias, center,
                                    lambda on, *given: on.above(*given[:3], threshold.detach(), given[3]), _rows_of(weight))
    return torch.where(values != 0, values, 0), indices   # entries that only fill a row up pass no gradient


def encode_positive(x: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All positive pre-activations of each row: values and indices [n, k], with zeros where a row has fewer."""
    values, indices = encode_above(x, weight, bias, torch.zeros_like(bias), center)
    return values.relu(), indices


def encode_batch_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int,
                      center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The n * k largest pre-activations of a batch of n rows, wherever they are (arXiv 2412.06410).

    Values and indices [n, most], with zeros where a row has fewer than the most.
    """
    def choose(on: ModuleType, x: Tensor, weight: Tensor, bias: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        room = min(4 * k, len(weight))
        while True:
            values, indices = on.largest(x, weight, bias, room, False, low)
            least = values.flatten().topk(min(len(x) * k, values.numel()), sorted=False).values.amin()
            chosen = values >= least
            if room == len(weight) or not bool(chosen.all(-1).any()):
                break
            room = min(4 * room, len(weight))   # a row all of whose entries are chosen may have more
        most = max(1, int(chosen.sum(-1).max()))
        order = chosen.to(torch.int8).topk(most, dim=-1, sorted=False).indices
        return torch.where(chosen, values, 0).gather(-1, order), indices.gather(-1, order)

    if len(x) == 0:
        return encode_topk(x, weight, bias, min(k, len(weight)), center)
    values, indices = _Encode.apply(x, weight, bias, center, choose, _rows_of(weight))
    return torch.where(values != 0, values, 0), indices   # entries that only fill a row up pass no gradient


def encode_groups(x: Tensor, weight: Tensor, bias: Tensor, n: int, center: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest pre-activation of each of n equal contiguous groups of latents: values and indices [rows, n]."""
    width = len(weight)
    if width % n:
        raise ValueError(f"{width} latents cannot be cut into {n} groups of one size.")

    def choose(on: ModuleType, x: Tensor, weight: Tensor, bias: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        return on.groups(x, weight, bias, n, low)

    return _Encode.apply(x, weight, bias, center, choose, _rows_of(weight))


def mask_largest(z: Tensor, k: int) -> Tensor:
    """Which are the k largest entries of each row of a dense matrix [n, width], or more where some are equal."""
    z = z.detach()
    return z >= backend_of(z).kth_largest(z, k)[:, None]


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, weight: Tensor, rows: Rows | None) -> Tensor:
        ctx.save_for_backward(values, indices, weight)
        ctx.backend, ctx.rows = backend_of(weight), rows
        return ctx.backend.combine(values.detach(), indices, weight.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, indices, weight = ctx.saved_tensors
        grad, grad_values, grad_weight = grads[0].contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_values = ctx.backend.products(grad, weight.detach(), indices)
        if ctx.needs_input_grad[2]:
            grad_weight = _weight_gradient(ctx.rows, ctx.backend, values.detach(), indices, grad, len(weight))
        return grad_values, None, grad_weight, None


def decode(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum of the chosen rows: values and indices [n, k], weight [width, d] -> [n, d]."""
    return _Decode.apply(values, indices, weight, _rows_of(weight))


class _SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor, x: Tensor,
                rows: Rows | None) -> tuple[Tensor, Tensor]:
        backend = backend_of(weight)
        find = getattr(backend, "squared_error", reference.squared_error)
        error, residual, inner = find(values.detach(), indices, weight.detach(), bias.detach(), x.detach(),
                                      ctx.needs_input_grad[0])
        ctx.save_for_backward(values, indices, weight, residual, inner)
        ctx.mark_non_differentiable(residual)
        ctx.backend, ctx.rows = backend, rows
        return error, residual

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, indices, weight, residual, inner = ctx.saved_tensors
        twice, grad_values, grad_weight, grad_bias = 2 * grads[0], None, None, None
        if ctx.needs_input_grad[0]:
            grad_values = twice * inner
        if ctx.needs_input_grad[2]:
            grad_weight = _weight_gradient(ctx.rows, ctx.backend, twice * values.detach(), indices, residual, len(weight))
        if ctx.needs_input_grad[3]:
            grad_bias = twice * residual.sum(0)
        grad_x = -twice * residual if ctx.needs_input_grad[4] else None
        return grad_values, None, grad_weight, grad_bias, grad_x, None


def squared_error(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The summed squared error of the reconstruction codes @ weight + bias of x [n, d], and the residual [n, d].

    The error has gradients; the residual, reconstruction less x, has none.
    """
    return _SquaredError.apply(values, indices, weight, bias, x, _rows_of(weight))


class _At(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.width = len(vector)
        return vector[indices]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        indices, = ctx.saved_tensors
        return reference.sums(grads[0], indices, ctx.width), None


def at(vector: Tensor, indices: Tensor) -> Tensor:
    """The entries of a vector [width] at indices [n, k]; unlike torch's own, the gradient is the same however many threads."""
    return _At.apply(vector, indices)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, rows: Rows | None) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.rows = weight.shape, rows
        return weight[index]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        index, = ctx.saved_tensors
        if ctx.rows is None:
            return grads[0].new_zeros(ctx.shape).index_add_(0, index, grads[0]), None, None
        ctx.rows.blocks.append((index, grads[0]))
        return None, None, None


def take(weight: Tensor, index: Tensor) -> Tensor:
    """Some rows of a weight: [width, d], [m] different indices -> [m, d]."""
    return _Take.apply(weight, index, _rows_of(weight))


def adam_rows(rows: Rows, m: Tensor, v: Tensor, rate: float, betas: tuple[float, float], eps: float, step: int,
              unit_norm: bool) -> None:
    """One step of Adam on a collected weight, from its products, blocks and `.grad`, all of which are then forgotten."""
    weight, dense = rows.weight, rows.weight.grad
    blocks = rows.blocks
    if len(blocks) > 1 and all(index is blocks[0][0] for index, _ in blocks):
        blocks = [(blocks[0][0], torch.stack([values for _, values in blocks]).sum(0))]
    while len(blocks) > 1:
        dense = torch.zeros_like(weight) if dense is None else dense
        dense.index_add_(0, *blocks.pop())
    with torch.no_grad():
        backend_of(weight).adam_rows(weight.detach(), m, v, rows.low, rows.products, dense, blocks[0] if blocks else None,
                                     rate, betas, eps, step, unit_norm)
    rows.products, rows.blocks, weight.grad = [], [], None
