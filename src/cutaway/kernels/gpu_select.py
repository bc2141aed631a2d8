"""Which latents fire, on a GPU: a bfloat16 product chooses candidates, and only those are computed exactly.

The product is cuBLAS's, in blocks of rows, into one buffer of bounded size, so no product [n, width] is ever held whole. Apart
from `above`, whose result is as wide as its fullest row, the host never waits for the device.
"""

from __future__ import annotations

# mypy: allow-incomplete-defs
# (Triton wants its compile-time arguments annotated, and has no types for the others.)
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .gpu_products import rescored

BUFFER = 2**29       # bytes of the product that are held at once: 2,048 rows in bfloat16 at width 131,072
GROUP = 64           # latents in a group, at most; there are at least SHARE groups for each of the k that are looked for
SHARE = 16
TILE = 1024          # entries of a row that a program looks at together
SPARE = 2            # candidates kept are this many times k, rounded up to a power of two, and at least 16
ROUNDING = 2.0**-7   # an entry of the product in bfloat16 and the bound that it is held against are each off by up to 2**-8
NOISE = 2.0**-6      # 4.7 standard deviations of the difference of two entries' errors from rounded inputs, 1.2 * 2**-9 each
SAMPLE = 1024        # rows of the weight whose norms stand for all
LEAST = torch.finfo(torch.float32).min
FIRST_GUESS = 256    # candidates of a row of `above` before it is known how many there are


# --- kernels ----------------------------------------------------------------------------------------------------------

@triton.jit
def _key(value):
    """A float32 as an int32 of the same order; every NaN comes just above infinity."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(value != value, 0x7F800001, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def _keys(rows, lengths, start, BLOCK: tl.constexpr):
    """The keys of some rows' entries from `start` on, [rows, BLOCK], which of them there are, and their places [1, BLOCK]."""
    at = start + tl.arange(0, BLOCK)[None, :]
    real = at < lengths
    return _key(tl.load(rows + at, mask=real, other=float("-inf"))), real, at


@triton.jit
def _count(rows, lengths, longest, keys, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """How many entries of each row reach its key: [rows, 1]."""
    total = tl.zeros([ROWS, BLOCK], tl.int32)
    for start in range(0, longest, BLOCK):
        own, real, at = _keys(rows, lengths, start, BLOCK)
        total += ((own >= keys) & real).to(tl.int32)
    return tl.sum(total, axis=1, keep_dims=True)


@triton.jit
def _kth_keys(rows, lengths, longest, k, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The k-th largest key of each row that has at least k entries, found bit by bit from the top: [rows, 1]."""
    keys = tl.zeros([ROWS, 1], tl.int32)
    keys = tl.where(_count(rows, lengths, longest, keys, ROWS, BLOCK) >= k, keys, -2147483648)
    for i in range(31):
        trial = keys + (1 << (30 - i))
        keys = tl.where(_count(rows, lengths, longest, trial, ROWS, BLOCK) >= k, trial, keys)
    return keys


@triton.jit
def _kth(values, lengths, found, n, stride, k, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The k-th largest of each row."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    own_lengths = tl.load(lengths + row, mask=row < n, other=0)
    keys = _kth_keys(values + row * stride, own_lengths, tl.max(own_lengths), k, ROWS, BLOCK)
    tl.store(found + row, (keys ^ ((keys >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True), mask=row < n)


@triton.jit
def _keep(values, lengths, bounds, places, kept, n, stride, room, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Where each row reaches its bound; where that is more than there is room for, its largest. Ties go to the first."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    rows, own_lengths = values + row * stride, tl.load(lengths + row, mask=row < n, other=0)
    longest, keys = tl.max(own_lengths), _key(tl.load(bounds + row, mask=row < n, other=0))
    counts = _count(rows, own_lengths, longest, keys, ROWS, BLOCK)
    if tl.max(counts) > room:
        keys = tl.where(counts > room, _kth_keys(rows, own_lengths, longest, room, ROWS, BLOCK), keys)
    greater = tl.zeros([ROWS, 1], tl.int32)
    tied = _count(rows, own_lengths, longest, keys + 1, ROWS, BLOCK)  # those at the bound come after all that are greater
    for start in range(0, longest, BLOCK):
        own, real, at = _keys(rows, own_lengths, start, BLOCK)
        over, equal = ((own > keys) & real).to(tl.int32), ((own == keys) & real).to(tl.int32)
        to = tl.where(over > 0, greater + tl.cumsum(over, axis=1) - 1, tied + tl.cumsum(equal, axis=1) - 1)
        tl.store(places + row * room + to, (at + row * 0).to(tl.int64), mask=(over + equal > 0) & (to < room))
        greater += tl.sum(over, axis=1, keep_dims=True)
        tied += tl.sum(equal, axis=1, keep_dims=True)
    tl.store(kept + row, tl.minimum(tied, room), mask=row < n)


@triton.jit
def _maxima(z, bias, best, n, width, parts, size, groups, MAGNITUDE: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
            BLOCK: tl.constexpr):
    """The largest z + bias of each group of a part: z [n, width] bfloat16 -> best [n, parts, groups]."""
    blocks = tl.cdiv(groups, BLOCK)
    block, part = tl.program_id(0) % blocks, tl.program_id(0) // blocks % parts
    rows = (tl.program_id(0) // blocks // parts).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    at = block * BLOCK * GROUP + tl.arange(0, BLOCK * GROUP)[None, :]
    inside, column = at < size, part * size + at
    entries = tl.load(z + rows * width + column, mask=inside & (rows < n), other=0).to(tl.float32)
    entries += tl.load(bias + column, mask=inside, other=0)
    entries = tl.where(inside, tl.abs(entries) if MAGNITUDE else entries, float("-inf"))
    maxima = tl.max(tl.reshape(entries, [ROWS, BLOCK, GROUP]), axis=2)
    group = block * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(best + (rows * parts + part) * groups + group, maxima, mask=(group < groups) & (rows < n))


@triton.jit
def _entries(z, bias, chosen, kept, entries, width, parts, size, room, MAGNITUDE: tl.constexpr, LEAST: tl.constexpr,
             GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """The z + bias of the chosen groups: chosen [n * parts, room] -> entries [n * parts, room, GROUP]."""
    n = tl.program_id(0).to(tl.int64)
    count = tl.load(kept + n)
    slot = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    if tl.program_id(1) * BLOCK < count:
        real = slot < count
        at = tl.load(chosen + n * room + slot, mask=real, other=0) * GROUP + tl.arange(0, GROUP)[None, :]
        inside, column = real & (at < size), n % parts * size + at
        found = tl.load(z + n // parts * width + column, mask=inside, other=0).to(tl.float32)
        found += tl.load(bias + column, mask=inside, other=0)
        found = tl.abs(found) if MAGNITUDE else tl.where(found == float("-inf"), LEAST, found)
        found = tl.where(inside, found, float("-inf"))  # below every latent, even one whose bias is -inf
        tl.store(entries + (n * room + slot) * GROUP + tl.arange(0, GROUP)[None, :], found, mask=real)


@triton.jit
def _near(z, lowest, slack, places, counts, width, room, BLOCK: tl.constexpr):
    """Where a row of z comes within its slack of `lowest`, in order, as far as there is room, and how often that is."""
    n = tl.program_id(0).to(tl.int64)
    allowed, count = tl.load(slack + n), tl.zeros([], tl.int32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        entries = tl.load(z + n * width + at, mask=at < width, other=0).to(tl.float32)
        least = tl.load(lowest + at, mask=at < width, other=float("inf"))
        near = ((entries + allowed >= least) & (at < width)).to(tl.int32)
        hits = tl.sum(near)
        if hits > 0:
            to = count + tl.cumsum(near) - 1
            tl.store(places + n * room + to, at.to(tl.int64), mask=(near > 0) & (to < room))
        count += hits
    tl.store(counts + n, count)


# --- rows of values -----------------------------------------------------------------------------------------------------

def _tile(values: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid and blocks of programs that each look at 4 * TILE entries at a time: of a few rows, or of many short ones."""
    block = max(16, min(TILE, triton.next_power_of_2(values.shape[1])))
    rows = 4 * TILE // block
    return (triton.cdiv(len(values), rows),), {"ROWS": rows, "BLOCK": block}


def _kth_of(values: Tensor, lengths: Tensor, k: int) -> Tensor:
    found = values.new_empty(len(values))
    grid, blocks = _tile(values)
    _kth[grid](values, lengths, found, len(values), values.shape[1], k, **blocks)
    return found


def _bounds(values: Tensor, lengths: Tensor, k: int, slack: Tensor) -> Tensor:
    """What an entry must reach, in low precision, to be one of its row's k largest."""
    found = _kth_of(values, lengths, k)
    lowest = found - ROUNDING * found.abs() - slack
    return lowest.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)  # NaN is kept, and so can be seen


def _kept(values: Tensor, lengths: Tensor, bounds: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Places [n, room] of the entries of each row that reach its bound, at most `room` and then the largest; and how many."""
    places = torch.zeros(len(values), room, dtype=torch.int64, device=values.device)
    counts = torch.empty_like(lengths)
    grid, blocks = _tile(values)
    _keep[grid](values, lengths, bounds, places, counts, len(values), values.shape[1], room, **blocks)
    return places, counts


def _whole(n: int, length: int, device: torch.device) -> Tensor:
    return torch.full((n,), length, dtype=torch.int32, device=device)


# --- the product --------------------------------------------------------------------------------------------------------

def low_copy(weight: Tensor) -> Tensor:
    """The bfloat16 copy of a weight [width, d] that selection multiplies with."""
    return weight.detach().to(torch.bfloat16).contiguous()


def _blocks(x: Tensor, weight: Tensor, low: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """x @ weight.T in the precision of `low`, or in float32 without it, some rows at a time, always in the same buffer."""
    n, width = len(x), len(weight)
    matrix = weight if low is None else low[:width]
    size = max(1, min(n, BUFFER // (matrix.element_size() * width)))
    buffer = torch.empty(size, width, dtype=matrix.dtype, device=x.device)
    for first in range(0, n, size):
        rows = slice(first, min(n, first + size))
        z = buffer[: rows.stop - first]
        torch.mm(x[rows].to(matrix.dtype), matrix.T, out=z)
        yield rows, z


def _noise(x: Tensor, weight: Tensor) -> Tensor:
    """How far off a bfloat16 product's entries are because its inputs were rounded, for each row: [n].

    The scale of that error is |x| |w| / sqrt(d); the largest norm of a sample of the weight's rows stands for all.
    """
    width, d = weight.shape
    norm = weight[:: max(1, width // SAMPLE)].norm(dim=1).max()
    return NOISE * x.float().norm(dim=1) * norm / d**0.5


# --- the interface ------------------------------------------------------------------------------------------------------

def _select(x: Tensor, weight: Tensor, bias: Tensor, k: int, parts: int, magnitude: bool,
            low: Tensor | None) -> tuple[Tensor, Tensor]:
    """The k largest of each of `parts` equal, contiguous parts of each row: values and indices [n, parts * k]."""
    n, width, device = len(x), len(weight), x.device
    size = width // parts
    group = 2 ** max(0, min(GROUP, size // (SHARE * k)).bit_length() - 1)
    groups, room = triton.cdiv(size, group), max(16, triton.next_power_of_2(SPARE * k))
    values = torch.empty(n * parts, k, dtype=torch.float32, device=device)
    indices = torch.empty(n * parts, k, dtype=torch.int64, device=device)
    far = ROUNDING * bias.abs().nan_to_num(nan=0, posinf=0).max()   # products that a bias cancels are this much less exact
    slack = (_noise(x, weight) + far)[:, None].expand(n, parts).flatten()
    offsets = (torch.arange(parts, device=device) * size)[:, None]
    for rows, z in _blocks(x, weight, low):
        m, own = len(z) * parts, slice(rows.start * parts, rows.stop * parts)
        best = torch.empty(m, groups, dtype=torch.float32, device=device)
        block = TILE // group
        _maxima[(triton.cdiv(len(z), 4) * parts * triton.cdiv(groups, block),)](
            z, bias, best, len(z), width, parts, size, groups, MAGNITUDE=magnitude, GROUP=group, ROWS=4, BLOCK=block)
        lengths = _whole(m, groups, device)
        chosen, counts = _kept(best, lengths, _bounds(best, lengths, k, slack[own]), room)

        entries = torch.empty(m, room * group, dtype=torch.float32, device=device)
        _entries[(m, triton.cdiv(room, 16))](
            z, bias, chosen, counts, entries, width, parts, size, room, MAGNITUDE=magnitude, LEAST=LEAST,
            GROUP=group, BLOCK=16)
        lengths = counts * group
        places, counts = _kept(entries, lengths, _bounds(entries, lengths, k, slack[own]), room)

        candidates = chosen.gather(1, places // group) * group + places % group
        latents = (candidates.view(-1, parts, room) + offsets).view(m, room)
        found = rescored(x[rows], weight, bias, latents, counts, parts)
        last, _ = _kept(found.abs() if magnitude else found, counts, torch.full_like(slack[own], -torch.inf), k)
        values[own], indices[own] = found.gather(1, last), latents.gather(1, last)
    return values.view(n, parts * k), indices.view(n, parts * k)


@torch.no_grad()
def largest(x: Tensor, weight: Tensor, bias: Tensor, k: int, magnitude: bool = False,
            low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest pre-activations x @ weight.T + bias of each row (by magnitude: of largest absolute value).

    x: [n, d], float32 or bfloat16; weight: [width, d] and bias [width], float32; gives values and indices [n, k], in no
    particular order. low: the weight's bfloat16 copy, to look for them with; left out, the search is in float32. Values are
    always summed in float32. Each row has room for 2 k candidates, rounded up to a power of two and at least 16. Where more
    than that come within rounding of the k-th (thousands of equal entries, say), those with the largest low-precision values
    are rescored: k different latents come back in any case, and none that is below another by more than the rounding. A row
    that holds NaN gives NaN.
    """
    if k > len(weight):
        raise ValueError(f"expected k of at most the width, {len(weight)}, found {k}: choose a smaller k or a greater width")
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    if reference.is_dense(k, len(weight)) or not len(x):
        return reference.largest(x.float(), weight, bias, k, magnitude)
    with torch.cuda.device_of(x):
        return _select(x, weight, bias, k, 1, magnitude, low)


@torch.no_grad()
def groups(x: Tensor, weight: Tensor, bias: Tensor, n: int, low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest pre-activation of each of n equal, contiguous groups of latents: values and indices [rows, n].

    Shapes, exactness and room as in `largest`, of which this is k = 1 in each group. ValueError where the width has no n equal
    parts.
    """
    if len(weight) % n:
        raise ValueError(f"expected a width that has {n} equal parts, found {len(weight)}: choose another number of groups")
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    if not len(x):
        return x.new_empty(0, n, dtype=torch.float32), x.new_empty(0, n, dtype=torch.int64)
    with torch.cuda.device_of(x):
        return _select(x, weight, bias, 1, n, False, low)


@torch.no_grad()
def kth_largest(z: Tensor, k: int) -> Tensor:
    """The k-th largest entry of each row of a float32 z [n, width]: [n]."""
    if not len(z):
        return z.new_empty(0)
    with torch.cuda.device_of(z):
        return _kth_of(z.contiguous(), _whole(len(z), z.shape[1], z.device), k)


@torch.no_grad()
def above(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, low: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The pre-activations above each latent's threshold [width]: values and indices [n, most], padded with zeros.

    x, weight, bias and low as in `largest`; most: what the fullest row has, at least 1. Since that is part of the result's
    shape, the host waits for it once. Where a row has more candidates than there was room for, the search starts again with
    room for all, so none is lost; where that is a large part of the width, all latents are given in order, by the reference.
    """
    n, width = x.shape[0], len(weight)
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    lowest = threshold - bias
    lowest -= ROUNDING * lowest.abs()
    noise, needed, room = _noise(x, weight), 1, min(FIRST_GUESS, width // reference.DENSE)
    while n and not reference.is_dense(needed, width):
        with torch.cuda.device_of(x):
            parts = [_fired(x[rows], z, weight, bias, threshold, lowest, noise[rows], room)
                     for rows, z in _blocks(x, weight, low)]
            values, latents, counts, fired = (torch.cat(part) for part in zip(*parts, strict=True))
            needed, most = torch.stack([counts.max(), fired.max()]).tolist()
            if needed > room:
                room = needed
                continue
            most = max(1, most)
            places, _ = _kept(values, _whole(n, room, x.device), torch.full_like(noise, LEAST), most)
            real = torch.arange(most, device=x.device) < fired[:, None]
            return torch.where(real, values.gather(1, places), 0), torch.where(real, latents.gather(1, places), 0)
    return reference.above(x.float(), weight, bias, threshold)


def _fired(x: Tensor, z: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor, lowest: Tensor, noise: Tensor,
           room: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A block's candidates [n, room], -inf for those that do not fire, and how many candidates and firing ones rows have."""
    latents = torch.zeros(len(x), room, dtype=torch.int64, device=x.device)
    counts = _whole(len(x), 0, x.device)
    _near[(len(x),)](z, lowest, noise, latents, counts, len(weight), room, BLOCK=TILE)
    found = rescored(x, weight, bias, latents, counts.clamp(max=room), 1)
    fires = found > threshold[latents]
    return torch.where(fires, found, -torch.inf), latents, counts, fires.sum(1, dtype=torch.int32)
