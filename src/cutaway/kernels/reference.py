"""The reference kernels in plain torch: a sparse code is (values, indices), and gradients touch only what fired."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

DENSE = 16  # codes with more than one entry in so many are multiplied as dense matrices, which is then faster


def is_dense(k: int, width: int) -> bool:
    """Whether k entries of a row of `width` are too many for sparse products to pay."""
    return k * DENSE > width


class _Encode(torch.autograd.Function):
    """The k largest of `x @ W.T + b`, whose gradient is computed from the chosen entries alone; k None: all positive ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
        z = F.linear(x, weight, bias)
        if k is None:
            k = max(1, int((z > 0).sum(-1).max())) if len(z) else 1
            k = len(weight) if is_dense(k, len(weight)) else k
        values, indices = largest(z, k)
        ctx.save_for_backward(x, weight, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, indices = ctx.saved_tensors
        grad = grads[0]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = decode(grad, indices, weight)
        if ctx.needs_input_grad[1]:
            grad_weight = transposed_product(grad, indices, x, len(weight))
        if ctx.needs_input_grad[2]:
            grad_bias = torch.zeros_like(weight[:, 0]).index_add_(0, indices.flatten(), grad.flatten())
        return grad_x, grad_weight, grad_bias, None


def encode_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest pre-activations of each row.

    x: [n, d], weight: [width, d], bias: [width]; gives values and indices [n, k], in no particular order.
    """
    return _Encode.apply(x, weight, bias, k)


def encode_positive(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """All positive pre-activations of each row: values and indices [n, k], with zeros where a row has fewer.

    k is the most that any row has, or the width where that is a large part of it.
    """
    values, indices = _Encode.apply(x, weight, bias, None)
    return values.relu(), indices


def largest(z: Tensor, k: int, groups: int = 16) -> tuple[Tensor, Tensor]:
    """`z.topk(k)` of each row of z [n, width], in no particular order, and faster where the width is much larger than k.

    Columns are seen in `width / groups` groups; the k largest entries lie in the k groups of the largest maxima.
    """
    width = z.shape[-1]
    if k == width:
        return z, torch.arange(width, device=z.device).repeat(len(z), 1)
    if width % groups or width // groups < 4 * k:
        return z.topk(k, dim=-1, sorted=False)
    best = z.unflatten(-1, (groups, -1)).amax(-2).topk(k, dim=-1, sorted=False).indices
    offsets = torch.arange(0, width, width // groups, device=z.device)
    candidates = (best[:, None] + offsets[:, None]).flatten(1)
    values, places = z.gather(-1, candidates).topk(k, dim=-1, sorted=False)
    return values, candidates.gather(-1, places)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, weight)
        return F.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, indices, weight = ctx.saved_tensors
        grad, grad_values, grad_weight = grads[0].contiguous(), None, None
        if ctx.needs_input_grad[0]:
            grad_values = chosen_products(grad, weight, indices)
        if ctx.needs_input_grad[2]:
            grad_weight = transposed_product(values, indices, grad, len(weight))
        return grad_values, None, grad_weight


def decode(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """The sum of the chosen rows: values and indices [n, k], weight [width, d] -> [n, d]."""
    if is_dense(indices.shape[-1], len(weight)):
        return dense(values, indices, len(weight)) @ weight
    return _Decode.apply(values, indices, weight)


def dense(values: Tensor, indices: Tensor, width: int) -> Tensor:
    """Codes as a matrix: values and indices [n, k] -> [n, width]."""
    return values.new_zeros(len(values), width).scatter(-1, indices, values)


def chosen_products(x: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """The products of each row with its chosen rows of the weight: x [n, d], weight [width, d], indices [n, k] -> [n, k]."""
    n, k = indices.shape
    starts = torch.arange(0, n * k + 1, k, device=x.device)
    chosen = torch.sparse_csr_tensor(starts, indices.flatten(), x.new_zeros(n * k), size=(n, len(weight)),
                                     check_invariants=False)
    return torch.sparse.sampled_addmm(chosen, x, weight.T).values().view(n, k)


def transposed_product(values: Tensor, indices: Tensor, x: Tensor, width: int) -> Tensor:
    """`codes.T @ x` for sparse codes: values and indices [n, k], x [n, d] -> [width, d]."""
    n, k = indices.shape
    if is_dense(k, width):
        return dense(values, indices, width).T @ x
    flat, order = torch.sort(indices.flatten())
    counts = torch.bincount(flat, minlength=width)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    rows = torch.div(order, k, rounding_mode="floor")
    codes = torch.sparse_csr_tensor(starts, rows, values.flatten()[order], size=(width, n), check_invariants=False)
    return codes @ x
