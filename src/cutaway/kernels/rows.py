"""The inner loops of the CPU backend: Numba functions over rows, each run by one thread on its own part.

A group of latents is a strided set, so that maxima of groups are taken down columns, which compilers turn into vector
instructions; maxima along a row they do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

LANES, DEPTH = 64, 16       # a chunk of LANES * DEPTH latents holds LANES groups of DEPTH latents, LANES apart
CHUNK = LANES * DEPTH
MARGIN = np.float32(0.01)   # more than the rounding of a bfloat16 product relative to its largest entries
LEAST = np.float32(-3e38)

typed: Any = intrinsic
jit: Any = njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp", "nnan", "ninf"}, cache=True, error_model="numpy")
careful: Any = njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, cache=True, error_model="numpy")


@typed
def _as_float(context: Any, bits: Any) -> Any:
    return types.float32(types.int32), lambda c, builder, s, arguments: builder.bitcast(arguments[0], ir.FloatType())


@typed
def _as_bits(context: Any, value: Any) -> Any:
    return types.int32(types.float32), lambda c, builder, s, arguments: builder.bitcast(arguments[0], ir.IntType(32))


def widen(value: Any) -> Any:
    """A bfloat16, given as int16, as float32; a float32 as it is."""


@overload(widen, jit_options={"fastmath": True})
def _widen(value):
    if isinstance(value, types.Integer):
        return lambda value: _as_float(np.int32(value) << np.int32(16))
    return lambda value: value


@careful
def narrow(value):
    """A float32 as the nearest bfloat16, ties to even, given as int16."""
    bits = _as_bits(value)
    return np.int16((bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16))


@careful
def dot(a, b):
    total = np.float32(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@jit
def halved(values, k, low, high, spare, rounds):
    """A value from low to high that at least k of `values` reach, and at most `spare` more where the rounds are enough."""
    for _ in range(rounds):
        middle = low + np.float32(0.5) * (high - low)
        count = np.float32(0)   # a float, as wide as what is counted
        for i in range(values.shape[0]):
            count += np.float32(1) if values[i] >= middle else np.float32(0)
        if count < k:
            high = middle
        else:
            low = middle
            if count <= k + spare:
                break
    return low


@jit
def bound(values, k):
    """A value that at least k of `values` reach, and seldom many more than that: bisection, since counting is fast."""
    low, high, real = -LEAST, LEAST, np.float32(0)
    for i in range(values.shape[0]):
        v = values[i]
        real += np.float32(1) if v > LEAST else np.float32(0)
        low = v if v < low and v > LEAST else low
        high = v if v > high else high
    if real < k:
        return LEAST
    return halved(values, k, low, high, k // 8, 24)


@jit
def group_maxima(z, shift, fine, coarse, magnitude):
    """Maxima of z + shift [CHUNK * c] (of its absolute value) over fine groups [LANES * c], and over four of those."""
    for chunk in range(z.shape[0] // CHUNK):
        best = fine[chunk * LANES: chunk * LANES + LANES]
        for lane in range(LANES):
            best[lane] = LEAST
        for depth in range(DEPTH):
            start = chunk * CHUNK + depth * LANES
            entries, add = z[start: start + LANES], shift[start: start + LANES]
            if magnitude:
                for lane in range(LANES):
                    v = widen(entries[lane]) + add[lane]
                    v = -v if v < 0 and v > LEAST else v
                    best[lane] = v if v > best[lane] else best[lane]
            else:
                for lane in range(LANES):
                    v = widen(entries[lane]) + add[lane]
                    best[lane] = v if v > best[lane] else best[lane]
        part = coarse[chunk * (LANES // 4): (chunk + 1) * (LANES // 4)]
        for lane in range(LANES // 4):
            first = max(best[lane], best[lane + LANES // 4])
            part[lane] = max(first, max(best[lane + LANES // 2], best[lane + 3 * LANES // 4]))


@jit
def reaching(z, shift, fine, coarse, least, magnitude, found):
    """Which entries of z + shift reach `least`, in found [width + 1]; gives how many. Without a branch for each entry."""
    count = 0
    for outer in range(coarse.shape[0]):
        if coarse[outer] >= least:
            chunk, lane = outer // (LANES // 4), outer % (LANES // 4)
            for group in range(chunk * LANES + lane, (chunk + 1) * LANES, LANES // 4):
                if fine[group] >= least:
                    start = chunk * CHUNK + group % LANES
                    for j in range(start, start + CHUNK, LANES):
                        v = widen(z[j]) + shift[j]
                        v = -v if magnitude and v < 0 and v > LEAST else v
                        found[count] = j
                        count += 1 if v >= least else 0
    return count


@careful
def dots(x, weight, chosen, count, out):
    """The products of x with some rows, four at a time, so that waiting for one row's memory is waiting for four."""
    i = 0
    while i < count:
        if i + 4 <= count:
            a, b, c, d = weight[chosen[i]], weight[chosen[i + 1]], weight[chosen[i + 2]], weight[chosen[i + 3]]
            s0 = s1 = s2 = s3 = np.float32(0)
            for q in range(x.shape[0]):
                v = x[q]
                s0 += v * a[q]
                s1 += v * b[q]
                s2 += v * c[q]
                s3 += v * d[q]
            out[i], out[i + 1], out[i + 2], out[i + 3] = s0, s1, s2, s3
            i += 4
        else:
            out[i] = dot(x, weight[chosen[i]])
            i += 1


@careful
def rescore(x, weight, bias, found, count, scores):
    """The exact pre-activations of the candidates."""
    dots(x, weight, found, count, scores)
    for i in range(count):
        scores[i] += bias[found[i]]


@jit
def least_of_best(keys, k):
    """The k-th largest of some values, or a value that more reach only where they are equal to float precision."""
    low, high = -LEAST, LEAST
    for i in range(keys.shape[0]):
        low = keys[i] if keys[i] < low else low
        high = keys[i] if keys[i] > high else high
    return halved(keys, k, low, high, 0, 40)


@careful
def best_of(scores, keys, found, count, k, magnitude, values, indices):
    """The k best of the candidates, or all of them and zeros."""
    for i in range(count):
        keys[i] = abs(scores[i]) if magnitude else scores[i]
    least = least_of_best(keys[:count], k) if count > k else LEAST
    kept = 0
    for i in range(count):
        if keys[i] >= least and kept < k:
            values[kept], indices[kept] = scores[i], found[i]
            kept += 1
    for i in range(kept, k):
        values[i], indices[i] = 0, 0


@careful
def select_largest(z, shift, x, weight, bias, k, magnitude, values, indices):
    """For each row the k largest of x @ weight.T + bias, looked for where z + shift, its bfloat16 version, is large."""
    padded = z.shape[1]
    fine, coarse = np.empty(padded // DEPTH, np.float32), np.empty(padded // DEPTH // 4, np.float32)
    found, scores = np.empty(padded + 1, np.int32), np.empty(padded, np.float32)
    keys = np.empty(padded, np.float32)
    for row in range(z.shape[0]):
        group_maxima(z[row], shift, fine, coarse, magnitude)
        # The more groups for each of k, the nearer the bound; more than eight are not worth the counting.
        least = bound(coarse if coarse.shape[0] >= 8 * k else fine, k)
        least = max(least - MARGIN * abs(least), np.float32(0.9) * LEAST)   # above what fills chunks up
        count = reaching(z[row], shift, fine, coarse, least, magnitude, found)
        rescore(x[row], weight, bias, found, count, scores)
        best_of(scores, keys, found, count, k, magnitude, values[row], indices[row])


@jit
def kth_largest(z, k, out):
    """The k-th largest of each row, to float precision."""
    for row in range(z.shape[0]):
        out[row] = least_of_best(z[row], k)


@careful
def select_above(z, shift, x, weight, bias, threshold, starts, values, indices):
    """For each row all entries above their thresholds, one after another: starts [n + 1] says where each row's begin."""
    padded = z.shape[1]
    fine, coarse = np.empty(padded // DEPTH, np.float32), np.empty(padded // DEPTH // 4, np.float32)
    found = np.empty(padded + 1, np.int32)
    total = 0
    for row in range(z.shape[0]):
        starts[row] = total
        group_maxima(z[row], shift, fine, coarse, False)
        count = reaching(z[row], shift, fine, coarse, np.float32(0), False, found)
        for i in range(count):
            j = found[i]
            v = dot(x[row], weight[j]) + bias[j]
            if v > threshold[j]:
                if total == values.shape[0]:
                    return -1
                values[total], indices[total] = v, j
                total += 1
    starts[z.shape[0]] = total
    return total


@careful
def combine(values, indices, weight, out):
    """Sums of chosen rows, four at a time, so that the sum is read and written less often."""
    n, k = values.shape
    for row in range(n):
        total, v, chosen = out[row], values[row], indices[row]
        total[:] = 0
        i = 0
        while i < k:
            if i + 4 <= k:
                a, b, c, d = weight[chosen[i]], weight[chosen[i + 1]], weight[chosen[i + 2]], weight[chosen[i + 3]]
                va, vb, vc, vd = v[i], v[i + 1], v[i + 2], v[i + 3]
                for q in range(total.shape[0]):
                    total[q] += va * a[q] + vb * b[q] + vc * c[q] + vd * d[q]
                i += 4
            else:
                a, va = weight[chosen[i]], v[i]
                for q in range(total.shape[0]):
                    total[q] += va * a[q]
                i += 1


@careful
def squared_error(values, indices, weight, bias, x, residual, inner):
    """The summed squared error of sums of chosen rows, and where `inner` has room its derivative by each value, halved.

    A row's chosen weights are still in the cache when they are multiplied with the residual that they leave.
    """
    n, k = values.shape
    error = np.float64(0)
    for row in range(n):
        combine(values[row: row + 1], indices[row: row + 1], weight, residual[row: row + 1])
        left = residual[row]
        total = np.float32(0)
        for q in range(left.shape[0]):
            left[q] += bias[q] - x[row, q]
            total += left[q] * left[q]
        error += total
        if inner.shape[0]:
            dots(left, weight, indices[row], k, inner[row])
    return error


@careful
def products(x, weight, indices, out):
    for row in range(indices.shape[0]):
        dots(x[row], weight, indices[row], indices.shape[1], out[row])


@careful
def invert(indices, starts, order):
    """A transposed index: the places of latent j in the flat indices are order[starts[j]: starts[j + 1]]."""
    flat, width = indices.ravel(), starts.shape[0] - 1
    starts[:] = 0
    for i in range(flat.shape[0]):
        starts[flat[i] + 1] += 1
    for j in range(width):
        starts[j + 1] += starts[j]
    for i in range(flat.shape[0]):
        order[starts[flat[i]]] = i
        starts[flat[i]] += 1
    for j in range(width, 0, -1):
        starts[j] = starts[j - 1]
    starts[0] = 0


@careful
def gather_row(total, j, values, starts, order, k, x):
    """Add row j of codes.T @ x to a sum."""
    flat, place, last = values.ravel(), starts[j], starts[j + 1]
    while place + 4 <= last:
        i0, i1, i2, i3 = order[place], order[place + 1], order[place + 2], order[place + 3]
        v0, v1, v2, v3 = flat[i0], flat[i1], flat[i2], flat[i3]
        x0, x1, x2, x3 = x[i0 // k], x[i1 // k], x[i2 // k], x[i3 // k]
        for q in range(total.shape[0]):
            total[q] += v0 * x0[q] + v1 * x1[q] + v2 * x2[q] + v3 * x3[q]
        place += 4
    while place < last:
        i = order[place]
        v, row = flat[i], x[i // k]
        for q in range(total.shape[0]):
            total[q] += v * row[q]
        place += 1


@careful
def transposed(values, starts, order, k, x, out, first, last):
    for j in range(first, last):
        out[j, :] = 0
        gather_row(out[j], j, values, starts, order, k, x)


@careful
def adam_rows(weight, m, v, low, has_low, products, block, place, dense, has_dense, rates, unit_norm, first, last):
    """Gradient, Adam, norm and the low-precision copy of the rows first to last: each row is read and written once.

    products: tuple of (values, starts, order, k, x). block [m, d] holds more gradient of the rows whose place [width] in it
    is not -1. rates: rate, beta1, beta2, eps and the two bias corrections.
    """
    rate, beta1, beta2, eps, correct1, correct2 = rates
    d, one = weight.shape[1], np.float32(1)
    scale, root = rate / correct1, one / np.sqrt(correct2)
    g = np.empty(d, np.float32)
    for j in range(first, last):
        g[:] = 0
        for values, starts, order, k, x in products:
            gather_row(g, j, values, starts, order, k, x)
        if place.shape[0] and place[j] >= 0:
            extra = block[place[j]]
            for q in range(d):
                g[q] += extra[q]
        if has_dense:
            for q in range(d):
                g[q] += dense[j, q]
        w, mean, square = weight[j], m[j], v[j]
        if unit_norm:
            along = dot(g, w)
            for q in range(d):
                g[q] -= along * w[q]
        norm = np.float32(0)
        for q in range(d):
            mean[q] = beta1 * mean[q] + (one - beta1) * g[q]
            square[q] = beta2 * square[q] + (one - beta2) * g[q] * g[q]
            w[q] -= scale * mean[q] / (np.sqrt(square[q]) * root + eps)
            norm += w[q] * w[q]
        if unit_norm:
            shrink = one / max(np.sqrt(norm), np.float32(1e-12))
            for q in range(d):
                w[q] *= shrink
        if has_low:
            for q in range(d):
                low[j, q] = narrow(w[q])
