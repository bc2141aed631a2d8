"""The CPU backend: a bfloat16 product chooses candidates, and everything after it touches k latents a row, in Numba.

Each thread takes a block of rows through product, selection and rescoring, so that nothing waits between them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..timing import part
from . import reference, rows
from .reference import Product

BLOCK_BYTES = 64 * 2**20   # a thread's block of the bfloat16 product

_own = threading.local()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads of which each runs torch's products alone. Starting them must not change torch's setting for the others."""
    ready = threading.Barrier(threads + 1)
    pool = ThreadPoolExecutor(threads, "cutaway-kernels", lambda: torch.set_num_threads(1))
    for _ in range(threads):
        pool.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(threads)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _split(n: int, work: Callable[[int, int], Any], size: int | None = None) -> None:
    """work(first, last) for parts of a range side by side: parts of `size`, or else two for each thread."""
    threads = torch.get_num_threads()
    size = size or max(16, -(-n // (2 * threads)))
    if threads == 1 or n <= size:
        for first in range(0, n, size):
            work(first, min(n, first + size))
        return
    for done in [_pool(threads).submit(work, first, min(n, first + size)) for first in range(0, n, size)]:
        done.result()


def padded(width: int) -> int:
    return -(-width // rows.CHUNK) * rows.CHUNK


def low_copy(weight: Tensor) -> Tensor:
    """The bfloat16 copy of a weight [width, d] that selection multiplies with; rows are added to whole chunks."""
    low = weight.new_zeros(padded(len(weight)), weight.shape[1], dtype=torch.bfloat16)
    low[: len(weight)] = weight.detach()
    return low


def _buffer(name: str, n: int, width: int, dtype: torch.dtype) -> Tensor:
    """This thread's own scratch matrix [n, width]."""
    held = getattr(_own, name, None)
    if held is None or held.numel() < n * width:
        held = torch.zeros(n * width, dtype=dtype)
        setattr(_own, name, held)
    return held[: n * width].view(n, width)


def _candidates(x: Tensor, weight: Tensor, low: Tensor | None, work: Callable[[np.ndarray, int, int], None]) -> None:
    """work(z, first, last) for blocks of rows: z is their product with the weight, in bfloat16 as int16 if `low` is given.

    In low precision each thread multiplies for itself; a float32 product takes all threads at once.
    """
    n, width, threads = len(x), padded(len(weight)), torch.get_num_threads()
    if low is not None:
        def multiply(first: int, last: int) -> None:
            z = _buffer("low", last - first, width, torch.bfloat16)
            with part("encode: product", threads):
                torch.mm(x[first:last].bfloat16(), low.T, out=z)
            with part("encode: selection", threads):
                work(z.view(torch.int16).numpy(), first, last)
        _split(n, multiply, max(16, min(-(-n // threads), BLOCK_BYTES // (2 * width))))
        return
    size = max(16, BLOCK_BYTES // (4 * width))
    for first in range(0, n, size):
        last = min(n, first + size)
        z = _buffer("full", last - first, width, torch.float32)
        with part("encode: product"):
            torch.mm(x[first:last], weight.T, out=z[:, : len(weight)])
        array = z.numpy()
        with part("encode: selection"):
            _split(last - first, partial(_shifted, work, array, first))


def _shifted(work: Callable[[np.ndarray, int, int], None], z: np.ndarray, begin: int, first: int, last: int) -> None:
    work(z[first:last], begin + first, begin + last)


def _shift(bias: Tensor) -> np.ndarray:
    """A vector [width] filled up to whole chunks with what never is a candidate."""
    return F.pad(bias, (0, padded(len(bias)) - len(bias)), value=float(rows.LEAST)).numpy()


def largest(x: Tensor, weight: Tensor, bias: Tensor, k: int, magnitude: bool = False,
            low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if reference.is_dense(k, len(weight)):
        return reference.largest(x, weight, bias, k, magnitude)
    n, shift = len(x), _shift(bias)
    values, indices = x.new_empty(n, k), torch.empty(n, k, dtype=torch.int64)
    xs, w, b, v, i = x.numpy(), weight.numpy(), bias.numpy(), values.numpy(), indices.numpy()
    _candidates(x, weight, low, lambda z, first, last: rows.select_largest(
        z, shift, xs[first:last], w, b, k, magnitude, v[first:last], i[first:last]))
    return values, indices


def groups(x: Tensor, weight: Tensor, bias: Tensor, n: int, low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return reference.groups(x, weight, bias, n, low)


sums = reference.sums


def kth_largest(z: Tensor, k: int) -> Tensor:
    out = z.new_empty(len(z))
    array, o = z.contiguous().numpy(), out.numpy()
    _split(len(z), lambda first, last: rows.kth_largest(array[first:last], k, o[first:last]))
    return out


def above(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if reference.is_dense(int((F.linear(x[:16], weight, bias) > threshold).sum(-1).max()) if len(x) else 0, len(weight)):
        return reference.above(x, weight, bias, threshold)
    distance = threshold - bias
    # An entry is a candidate where its low-precision version comes near enough to the threshold.
    near = float(rows.MARGIN) * (distance.abs() + 0.1 * distance.abs().mean() + 1e-6)
    shift = _shift(near - distance)
    xs, w, b, t = x.numpy(), weight.numpy(), bias.numpy(), threshold.numpy()
    parts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def work(z: np.ndarray, first: int, last: int) -> None:
        room = 64 * (last - first)
        while True:
            starts, v, i = np.empty(last - first + 1, np.int64), np.empty(room, np.float32), np.empty(room, np.int64)
            total = rows.select_above(z, shift, xs[first:last], w, b, t, starts, v, i)
            if total >= 0:
                parts[first] = starts, v[:total], i[:total]
                return
            room *= 4

    _candidates(x, weight, low, work)
    return _padded_rows([parts[first] for first in sorted(parts)], len(x))


def _padded_rows(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], n: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as values and indices [n, most], with zeros after each row's end."""
    lengths = np.concatenate([np.diff(starts) for starts, _, _ in parts]) if parts else np.zeros(0, np.int64)
    most = max(1, int(lengths.max())) if len(lengths) else 1
    inside = np.arange(most) < lengths[:, None]
    values, indices = np.zeros((n, most), np.float32), np.zeros((n, most), np.int64)
    if parts:
        values[inside] = np.concatenate([v for _, v, _ in parts])
        indices[inside] = np.concatenate([i for _, _, i in parts])
    return torch.from_numpy(values), torch.from_numpy(indices)


def products(x: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    if reference.is_dense(indices.shape[1], len(weight)):
        return reference.products(x, weight, indices)
    out = x.new_empty(indices.shape)
    xs, w, i, o = x.contiguous().numpy(), weight.numpy(), indices.contiguous().numpy(), out.numpy()
    _split(len(x), lambda first, last: rows.products(xs[first:last], w, i[first:last], o[first:last]))
    return out


def combine(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    if reference.is_dense(indices.shape[1], len(weight)):
        return reference.combine(values, indices, weight)
    out = weight.new_empty(len(values), weight.shape[1])
    v, i, w, o = values.contiguous().numpy(), indices.contiguous().numpy(), weight.numpy(), out.numpy()
    _split(len(values), lambda first, last: rows.combine(v[first:last], i[first:last], w, o[first:last]))
    return out


def squared_error(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor, x: Tensor,
                  inner: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    if reference.is_dense(indices.shape[1], len(weight)):
        return reference.squared_error(values, indices, weight, bias, x, inner)
    residual, derivative = torch.empty_like(x), x.new_empty(values.shape if inner else (0, 0))
    v, i, w, b, xs = (t.contiguous().numpy() for t in (values, indices, weight, bias, x))
    r, g, errors = residual.numpy(), derivative.numpy(), {}

    def work(first: int, last: int) -> None:
        errors[first] = rows.squared_error(v[first:last], i[first:last], w, b, xs[first:last], r[first:last], g[first:last])

    _split(len(x), work)
    return x.new_tensor(sum(errors[first] for first in sorted(errors))), residual, derivative if inner else None


def _inverted(product: Product, width: int) -> tuple[Any, ...]:
    """A product with its transposed index, which encoder and decoder as a rule share and ask for one after the other."""
    known, starts, order = getattr(_own, "inverted", (None, np.empty(0), None))
    if known is not product.indices or len(starts) != width + 1:
        indices = product.indices.contiguous().numpy()
        starts, order = np.empty(width + 1, np.int64), np.empty(indices.size, np.int64)
        rows.invert(indices, starts, order)
        _own.inverted = product.indices, starts, order
    return product.values.contiguous().numpy(), starts, order, product.indices.shape[1], product.x.contiguous().numpy()


def transposed(values: Tensor, indices: Tensor, x: Tensor, width: int) -> Tensor:
    if reference.is_dense(indices.shape[1], width):
        return reference.transposed(values, indices, x, width)
    out = x.new_empty(width, x.shape[1])
    inverted, o = _inverted(Product(values, indices, x), width), out.numpy()
    _split(width, lambda first, last: rows.transposed(*inverted, o, first, last))
    return out


def adam_rows(weight: Tensor, m: Tensor, v: Tensor, low: Tensor | None, grads: Sequence[Product], dense: Tensor | None,
              block: tuple[Tensor, Tensor] | None, rate: float, betas: tuple[float, float], eps: float, step: int,
              unit_norm: bool) -> None:
    width, d = weight.shape
    empty = np.zeros((0, 0), np.float32)
    inverted = tuple(_inverted(product, width) for product in grads) or (
        (empty, np.zeros(width + 1, np.int64), np.zeros(0, np.int64), 1, empty),)
    place = np.zeros(0, np.int64)
    if block is not None:
        place = np.full(width, -1, np.int64)
        place[block[0].numpy()] = np.arange(len(block[0]))
    extra = empty if block is None else block[1].contiguous().numpy()
    rates = tuple(map(np.float32, (rate, *betas, eps, 1 - betas[0]**step, 1 - betas[1]**step)))
    copy = np.zeros((0, 0), np.int16) if low is None else low.view(torch.int16).numpy()
    matrix = empty if dense is None else dense.contiguous().numpy()
    w, mean, square = weight.detach().numpy(), m.numpy(), v.numpy()
    _split(width, lambda first, last: rows.adam_rows(
        w, mean, square, copy, low is not None, inverted, extra, place, matrix, dense is not None, rates, unit_norm,
        first, last))
