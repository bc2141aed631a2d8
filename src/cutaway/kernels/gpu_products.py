"""Products with chosen rows of a weight, on a GPU: every row of x meets only its own k latents."""

from __future__ import annotations

# mypy: allow-incomplete-defs
# (Triton wants its compile-time arguments annotated, and has no types for the others.)
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

# Which of these is fastest is found on the device at first use, for each d; in Triton's interpreter there is nothing to time.
SHAPES = [(512, 4), (1024, 4), (1024, 8), (2048, 8)]


def configurations() -> list[triton.Config]:
    return [triton.Config({"BLOCK_D": block}, num_warps=warps)
            for block, warps in SHAPES[:1 if os.environ.get("TRITON_INTERPRET") == "1" else None]]


@triton.autotune(configurations(), key=["d"])
@triton.jit
def _products(x, weight, indices, counts, out, parts, k, d, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """out[i, j] = x[i // parts] . weight[indices[i, j]] for the first counts[i] of the k entries of row i."""
    i = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + i)
    if tl.program_id(1) * BLOCK_K < count:
        slot = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
        real = slot < count
        rows = tl.load(indices + i * k + slot, mask=real, other=0).to(tl.int64)
        total = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
        for start in range(0, d, BLOCK_D):
            at = start + tl.arange(0, BLOCK_D)
            own = tl.load(x + i // parts * d + at, mask=at < d, other=0).to(tl.float32)
            theirs = tl.load(weight + rows[:, None] * d + at[None, :], mask=real[:, None] & (at < d)[None, :], other=0)
            total += own[None, :] * theirs.to(tl.float32)
        tl.store(out + i * k + slot, tl.sum(total, axis=1), mask=real)


@triton.autotune(configurations(), key=["d"])
@triton.jit
def _combine(values, indices, weight, out, k, d, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """out[i] = sum over j of values[i, j] weight[indices[i, j]]; rows whose value is 0 are not read."""
    i = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, k, BLOCK_K):
        slot = start + tl.arange(0, BLOCK_K)
        value = tl.load(values + i * k + slot, mask=slot < k, other=0).to(tl.float32)
        rows = tl.load(indices + i * k + slot, mask=slot < k, other=0).to(tl.int64)
        chosen = tl.load(weight + rows[:, None] * d + at[None, :], mask=(value != 0)[:, None] & (at < d)[None, :], other=0)
        total += tl.sum(value[:, None] * chosen.to(tl.float32), axis=0)
    tl.store(out + i * d + at, total, mask=at < d)


def _launch_products(x: Tensor, weight: Tensor, indices: Tensor, counts: Tensor, parts: int, out: Tensor) -> Tensor:
    if out.numel():
        n, k = indices.shape
        with torch.cuda.device_of(x):
            _products[(n, triton.cdiv(k, 4))](x, weight, indices, counts, out, parts, k, x.shape[1], BLOCK_K=4)
    return out


def rescored(x: Tensor, weight: Tensor, bias: Tensor, indices: Tensor, counts: Tensor, parts: int) -> Tensor:
    """The exact pre-activations of the first counts[i] candidates of each row, and -inf after them.

    x: [n, d], indices: [n * parts, room], counts: [n * parts].
    """
    out = torch.full(indices.shape, -torch.inf, dtype=torch.float32, device=x.device)
    return _launch_products(x, weight, indices, counts, parts, out) + bias[indices]


@torch.no_grad()
def products(x: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """The products of each row with its chosen rows of the weight, in float32: x [n, d], indices [n, k] -> [n, k]."""
    n, k = indices.shape
    if reference.is_dense(k, len(weight)):
        return reference.products(x.float(), weight.float(), indices)
    out = torch.empty(n, k, dtype=torch.float32, device=x.device)
    counts = torch.full((n,), k, dtype=torch.int32, device=x.device)
    return _launch_products(x.contiguous(), weight.contiguous(), indices.contiguous(), counts, 1, out)


@torch.no_grad()
def combine(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum of the chosen rows, in float32: values and indices [n, k], weight [width, d] -> [n, d]."""
    (n, k), (width, d) = indices.shape, weight.shape
    if reference.is_dense(k, width):
        return reference.combine(values.float(), indices, weight.float())
    out = torch.empty(n, d, dtype=torch.float32, device=values.device)
    if not out.numel():
        return out

    def grid(chosen: dict[str, Any]) -> tuple[int, int]:
        return n, triton.cdiv(d, chosen["BLOCK_D"])

    with torch.cuda.device_of(values):
        _combine[grid](values.contiguous(), indices.contiguous(), weight.contiguous(), out, k, d, BLOCK_K=4)
    return out
