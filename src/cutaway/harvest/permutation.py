"""A random order of any number of things that needs no memory and can be entered anywhere."""

from __future__ import annotations

import math

import numpy as np

ROUNDS = 8


class Permutation:
    """A keyed permutation of 0..n-1: a generalized Feistel network with cycle walking (Black and Rogaway 2002, section 4).

    key: numbers, such as a seed and an epoch; another key gives another order. A place is written as (l, r) with l < a and
    r < b, where a * b is just above n; each round adds a hash of one half to the other, and what lands at n or above walks
    on. The paper's rounds use a block cipher; here they use the finalizer of splitmix64, since nobody is to be kept from
    guessing the order. Raises ValueError for n < 1 or a negative key.
    """

    def __init__(self, n: int, *key: int):
        if n < 1 or min(key, default=0) < 0:
            raise ValueError(f"a permutation needs n of at least 1 and keys of at least 0; found {n} and {list(key)}.")
        a = math.isqrt(n - 1) + 1
        self.n, self._halves = n, (np.uint64(a), np.uint64(-(-n // a)))
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """What stands at some places of the order: places int [m], each below n -> int64 [m]."""
        found = self._once(np.asarray(places).astype(np.uint64))
        # a * b exceeds n by less than a, so next to nothing has to walk, and never far.
        while len(outside := np.flatnonzero(found >= self.n)):
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        a, b = self._halves
        halves, sizes = [x // b, x % b], [a, b]
        for i, key in enumerate(self._keys):
            to, by, size = i % 2, 1 - i % 2, sizes[i % 2]
            moved = halves[to] + (((_mixed(halves[by] + key) >> np.uint64(32)) * size) >> np.uint64(32))
            halves[to] = np.minimum(moved, moved - size)  # modulo size: the difference wraps round where it is negative
        return halves[0] * b + halves[1]


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014): 64 bits, each of which depends on all bits of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Without:
    """0..n-1 without some: the `n` numbers that are left, by their place among them.

    left_out: sorted int64 [m]. Takes O(m) memory.
    """

    def __init__(self, n: int, left_out: np.ndarray):
        self.n = n - len(left_out)
        # How many are left before each that is left out.
        self._before = left_out - np.arange(len(left_out))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The numbers at some places: int64 [m] -> int64 [m]."""
        return places + np.searchsorted(self._before, places, side="right")
