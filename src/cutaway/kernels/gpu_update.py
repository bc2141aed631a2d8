"""The weights' gradients and their optimizer, on a GPU: entries are sorted by latent, and each latent sums its own in order.

No two programs write to the same place, so nothing is atomic and every run gives the same bits.
"""

from __future__ import annotations

# mypy: allow-incomplete-defs
# (Triton wants its compile-time arguments annotated, and has no types for the others.)
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .gpu_products import configurations

PART = 1024  # columns of a row of the weight that a program updates where it needs no norm


@triton.jit
def _gathered(coefficients, rows, x, start, stop, d, at, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr):
    """The sum of coefficients[e] x[rows[e]] for start <= e < stop, at the columns `at`."""
    total = tl.zeros([BLOCK_D], tl.float32)
    for first in range(start, stop, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        scale = tl.load(coefficients + e, mask=e < stop, other=0)
        row = tl.load(rows + e, mask=e < stop, other=0).to(tl.int64)
        part = tl.load(x + row[:, None] * d + at[None, :], mask=(e < stop)[:, None] & (at < d)[None, :], other=0)
        total += tl.sum(scale[:, None] * part.to(tl.float32), axis=0)
    return total


@triton.autotune(configurations(), key=["d"])
@triton.jit
def _transposed(coefficients, rows, starts, x, out, d, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr):
    j = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = _gathered(coefficients, rows, x, tl.load(starts + j), tl.load(starts + j + 1), d, at, BLOCK_D, BLOCK_E)
    tl.store(out + j * d + at, total, mask=at < d)


@triton.jit
def _adam(weight, m, v, low, coefficients, rows, starts, x, dense, block, place, d, rate, keep1, add1, keep2, add2, root, eps,
          UNIT_NORM: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr):
    """One latent, or some of its columns: gradient, Adam, norm (of whole rows) and bfloat16 copy, all in one pass."""
    j = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside, here = at < d, j * d + at
    g = _gathered(coefficients, rows, x, tl.load(starts + j), tl.load(starts + j + 1), d, at, BLOCK_D, BLOCK_E)
    if dense is not None:
        g += tl.load(dense + here, mask=inside, other=0).to(tl.float32)
    if block is not None:
        row = tl.load(place + j).to(tl.int64)
        if row >= 0:
            g += tl.load(block + row * d + at, mask=inside, other=0).to(tl.float32)
    w = tl.load(weight + here, mask=inside, other=0)
    if UNIT_NORM:
        g -= tl.sum(g * w) * w
    mean = keep1 * tl.load(m + here, mask=inside, other=0) + add1 * g
    square = keep2 * tl.load(v + here, mask=inside, other=0) + add2 * g * g
    w -= rate * mean / (tl.sqrt(square) * root + eps)
    if UNIT_NORM:
        w = w / tl.maximum(tl.sqrt(tl.sum(tl.where(inside, w * w, 0))), 1e-12)
    tl.store(m + here, mean, mask=inside)
    tl.store(v + here, square, mask=inside)
    tl.store(weight + here, w, mask=inside)
    if low is not None:
        tl.store(low + here, w.to(tl.bfloat16), mask=inside)


def _by_latent(grads: Sequence[tuple[Tensor, Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All entries of some (values, indices, x), sorted by latent.

    Gives coefficients and rows [entries], starts [width + 1], and the x that the rows are of. Entries of value 0 are padding,
    most of it at one index: they are sorted behind the last latent, where nobody looks.
    """
    values = torch.cat([v.float().flatten() for v, _, _ in grads])
    latents = torch.cat([i.flatten() for _, i, _ in grads]).to(torch.int32).masked_fill(values == 0, width)
    xs = torch.cat([x for _, _, x in grads]).contiguous()
    first, rows = 0, []
    for v, _, x in grads:
        rows.append(torch.arange(first, first + len(x), dtype=torch.int32, device=x.device)[:, None].expand(v.shape).flatten())
        first += len(x)
    latents, order = latents.sort(stable=True)
    starts = torch.searchsorted(latents, torch.arange(width + 1, dtype=torch.int32, device=xs.device), out_int32=True)
    return values[order], torch.cat(rows)[order], starts, xs


@torch.no_grad()
def transposed(values: Tensor, indices: Tensor, x: Tensor, width: int) -> Tensor:
    """codes.T @ x, summed in float32 and in the rows' order: values and indices [n, k], x [n, d] -> [width, d]."""
    d = x.shape[1]
    if reference.is_dense(indices.shape[1], width):
        return reference.transposed(values.float(), indices, x.float(), width)
    coefficients, rows, starts, x = _by_latent([(values, indices, x)], width)
    out = torch.empty(width, d, dtype=torch.float32, device=x.device)

    def grid(chosen: dict[str, int]) -> tuple[int, int]:
        return width, triton.cdiv(d, chosen["BLOCK_D"])

    with torch.cuda.device_of(x):
        _transposed[grid](coefficients, rows, starts, x, out, d, BLOCK_E=4)
    return out


@torch.no_grad()
def sums(values: Tensor, indices: Tensor, width: int) -> Tensor:
    """The sum of each latent's values, with no atomic additions: values and indices [n, k] -> [width]."""
    return transposed(values, indices, values.new_ones(len(values), 1), width).squeeze(1)


@torch.no_grad()
def adam_rows(weight: Tensor, m: Tensor, v: Tensor, low: Tensor | None, grads: Sequence[tuple[Tensor, Tensor, Tensor]],
              dense: Tensor | None, block: tuple[Tensor, Tensor] | None, rate: float, betas: tuple[float, float], eps: float,
              step: int, unit_norm: bool) -> None:
    """One step of Adam on a weight [width, d], in place, with its gradient made row by row on the way (Kingma & Ba, 2014).

    m, v: float32 moments [width, d]; low: None, or the bfloat16 copy [width or more, d] to refresh. The gradient is the sum of
    codes.T @ x over grads (values [n, k], indices [n, k], x [n, d]), of dense [width, d], and of block: its gradients [rows, d]
    belong to the latents block[0] [rows], each named once. step counts from 1. With unit_norm, the part of the gradient along
    each row is taken out, and rows have length 1 afterwards. ValueError where a tensor that is changed is not contiguous.
    """
    width, d = weight.shape
    changed = {"weight": weight, "m": m, "v": v} | ({} if low is None else {"low": low})
    for name, tensor in changed.items():
        if not tensor.is_contiguous():
            raise ValueError(f"expected a contiguous {name} to update in place, found strides {tensor.stride()}: "
                             f"pass {name}.contiguous() and keep that")
    none = [(weight.new_zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64, device=weight.device), weight[:0])]
    coefficients, rows, starts, x = _by_latent(grads or none, width)
    gradients = place = None
    if block is not None:
        place = torch.full((width,), -1, dtype=torch.int32, device=weight.device)
        place[block[0]] = torch.arange(len(block[0]), dtype=torch.int32, device=weight.device)
        gradients = block[1].contiguous()
    dense = None if dense is None else dense.contiguous()
    beta1, beta2 = betas
    # A norm needs its whole row; otherwise all latents' first columns are done first, whose part of x then stays in the cache.
    columns = triton.next_power_of_2(d) if unit_norm else min(PART, triton.next_power_of_2(d))
    with torch.cuda.device_of(weight):
        _adam[(width, triton.cdiv(d, columns))](
            weight, m, v, low, coefficients, rows, starts, x, dense, gradients, place, d, rate / (1 - beta1**step),
            beta1, 1 - beta1, beta2, 1 - beta2, (1 - beta2**step) ** -0.5, eps,
            UNIT_NORM=unit_norm, BLOCK_E=2, BLOCK_D=columns, num_warps=4 if columns <= PART else 8 if columns <= 4096 else 16)
