"""The reference backend in plain torch: exact, for every device and dtype. Its functions are what the others must equal.

A sparse code is (values, indices), [n, k] each; a value of 0 says that its latent does not fire. weight: [width, d] for
encoder and decoder alike. Nothing here is differentiated; gradients are in `sparse`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

DENSE = 16  # codes with more than one entry in so many are multiplied as dense matrices, which is then faster


class Product(NamedTuple):
    """A gradient codes.T @ x [width, d] that is not multiplied out: values and indices [n, k], x [n, d]."""

    values: Tensor
    indices: Tensor
    x: Tensor


def is_dense(k: int, width: int) -> bool:
    """Whether k entries of a row of `width` are too many for sparse products to pay."""
    return k * DENSE > width


def is_whole(indices: Tensor, width: int) -> bool:
    """Whether indices [n, k] name all latents in order in each row, as `everything` makes them."""
    return indices.shape[-1] == width and indices.stride(0) == 0


def everything(n: int, width: int, device: torch.device) -> Tensor:
    """The indices [n, width] of all latents, in no memory."""
    return torch.arange(width, device=device).expand(n, width)


def dense(values: Tensor, indices: Tensor, width: int) -> Tensor:
    """Codes as a matrix: values and indices [n, k] -> [n, width]."""
    if is_whole(indices, width):
        return values
    return values.new_zeros(len(values), width).scatter_add(-1, indices, values)


def largest(x: Tensor, weight: Tensor, bias: Tensor, k: int, magnitude: bool = False,
            low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest pre-activations x @ weight.T + bias of each row (by magnitude: of largest absolute value).

    x: [n, d]; gives values and indices [n, k], in no particular order. low: a copy of the weight in bfloat16, with rows
    added at its end or not, to look for them with; left out, the search is exact. Values are always exact.
    """
    z = F.linear(x, weight, bias)
    if k == len(weight):
        return z, everything(len(z), k, z.device)
    indices = _largest(z.abs() if magnitude else z, k)
    return z.gather(-1, indices), indices


def _largest(z: Tensor, k: int, groups: int = 16) -> Tensor:
    """Indices of the k largest of each row; the k largest entries lie in the k groups with the largest maxima."""
    width = z.shape[-1]
    if width % groups or width // groups < 4 * k:
        return z.topk(k, dim=-1, sorted=False).indices
    best = z.unflatten(-1, (groups, -1)).amax(-2).topk(k, dim=-1, sorted=False).indices
    offsets = torch.arange(0, width, width // groups, device=z.device)
    candidates = (best[:, None] + offsets[:, None]).flatten(1)
    return candidates.gather(-1, z.gather(-1, candidates).topk(k, dim=-1, sorted=False).indices)


def groups(x: Tensor, weight: Tensor, bias: Tensor, n: int, low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest pre-activation of each of n equal contiguous groups of latents: values and indices [rows, n]."""
    width = len(weight)
    z = F.linear(x, weight, bias) if low is None else F.linear(x.to(low.dtype), low[:width], bias.to(low.dtype))
    best = z.unflatten(-1, (n, width // n)).argmax(-1)
    indices = best + torch.arange(0, width, width // n, device=x.device)
    return products(x, weight, indices) + bias[indices], indices


def kth_largest(z: Tensor, k: int) -> Tensor:
    """A value for each row of z [n, width] that its k largest entries reach: [n]."""
    return z.topk(k, dim=-1, sorted=False).values.amin(-1)


def above(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The pre-activations above each latent's threshold [width], padded with zeros to the most that any row has.

    Where that is a large part of the width, all latents are given in order, with zeros for those that are not above.
    """
    z = F.linear(x, weight, bias)
    over = z > threshold
    z = torch.where(over, z, 0)
    k = max(1, int(over.sum(-1).max())) if len(z) else 1
    if is_dense(k, len(weight)):
        return z, everything(len(z), len(weight), z.device)
    indices = _largest(over.to(torch.int8), k)
    return z.gather(-1, indices), indices


def products(x: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """The products of each row with its chosen rows of the weight: x [n, d], indices [n, k] -> [n, k]."""
    n, k = indices.shape
    if is_dense(k, len(weight)):
        z = x @ weight.T
        return z if is_whole(indices, len(weight)) else z.gather(-1, indices)
    starts = torch.arange(0, n * k + 1, k, device=x.device)
    chosen = torch.sparse_csr_tensor(starts, indices.flatten(), x.new_zeros(n * k), size=(n, len(weight)),
                                     check_invariants=False)
    return torch.sparse.sampled_addmm(chosen, x, weight.T).values().view(n, k)


def combine(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum of the chosen rows: values and indices [n, k] -> [n, d]."""
    if is_dense(indices.shape[-1], len(weight)):
        return dense(values, indices, len(weight)) @ weight
    return F.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")


def squared_error(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor, x: Tensor,
                  inner: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The summed squared error of codes @ weight + bias to x, and the residual [n, d].

    inner: also the products of the residual with the chosen rows [n, k], half of the error's derivative by each value.
    """
    residual = combine(values, indices, weight) + bias - x
    return residual.pow(2).sum(), residual, products(residual, weight, indices) if inner else None


def transposed(values: Tensor, indices: Tensor, x: Tensor, width: int) -> Tensor:
    """codes.T @ x: values and indices [n, k], x [n, d] -> [width, d]."""
    n, k = indices.shape
    if is_dense(k, width):
        return dense(values, indices, width).T @ x
    flat, order = torch.sort(indices.flatten())
    counts = torch.bincount(flat, minlength=width)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    rows = torch.div(order, k, rounding_mode="floor")
    codes = torch.sparse_csr_tensor(starts, rows, values.flatten()[order], size=(width, n), check_invariants=False)
    return codes @ x


def sums(values: Tensor, indices: Tensor, width: int) -> Tensor:
    """The sum of each latent's values: [n, k] -> [width]."""
    if is_whole(indices, width):
        return values.sum(0)
    return values.new_zeros(width).index_add_(0, indices.flatten(), values.flatten())


def low_copy(weight: Tensor) -> Tensor:
    """The copy of a weight [width, d] that a selection can be made with, in bfloat16."""
    return weight.detach().to(torch.bfloat16)


def adam_rows(weight: Tensor, m: Tensor, v: Tensor, low: Tensor | None, grads: Sequence[Product], dense: Tensor | None,
              block: tuple[Tensor, Tensor] | None, rate: float, betas: tuple[float, float], eps: float, step: int,
              unit_norm: bool) -> None:
    """One step of Adam (arXiv 1412.6980, algorithm 1) on the rows of a weight, in place.

    The gradient is the sum of the products, of `dense` [width, d], and of a block: indices [m] and rows [m, d].
    unit_norm: what would change a row's length is taken from its gradient, and rows are set to norm 1 after the step.
    m, v: moments; low: a bfloat16 copy to keep up to date, of which only the first rows belong to the weight.
    """
    grad = torch.zeros_like(weight) if dense is None else dense.clone()
    for product in grads:
        grad += transposed(*product, len(weight))
    if block is not None:
        grad.index_add_(0, *block)
    if unit_norm:
        grad -= (grad * weight).sum(1, keepdim=True) * weight
    m.lerp_(grad, 1 - betas[0])
    v.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    root = (v / (1 - betas[1]**step)).sqrt_().add_(eps)
    weight.addcdiv_(m, root, value=-rate / (1 - betas[0]**step))
    if unit_norm:
        weight.div_(weight.norm(dim=1, keepdim=True).clamp(min=1e-12))
    if low is not None:
        low[: len(weight)] = weight
