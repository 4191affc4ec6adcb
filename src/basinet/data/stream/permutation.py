"""Orders of many millions of things that need not be held in memory."""

import numpy as np
from jaxtyping import Int64, UInt64

DRAWN = 2**20
"""Orders of up to this many are drawn and kept (8 MB); of more, they are computed place by place."""
ROUNDS = 6


class Permutation:
    r"""A random order of ``0, ..., n - 1``, asked for piece by piece.

    Small ones are drawn uniformly. Above ``DRAWN`` an order of 15 million would be 120 MB and a second at the beginning
    of each epoch; there it is a Feistel network on the pairs :math:`(l, r)` of halves of the bits of a number,

    .. math:: (l, r) \to (r, l \oplus f_k(r)),

    with a mixing function :math:`f_k` for each round (that of splitmix64, with random keys). Every round can be undone,
    so it is a permutation of the next power of four; a number that falls outside is sent on until it is inside, which
    leaves a permutation of ``n`` (cycle walking; Black and Rogaway, CT-RSA 2002). Four rounds are indistinguishable
    from random for a good :math:`f` (Luby and Rackoff, 1988); we take six.

    >>> sorted(Permutation(5, [0, 1])(0, 5).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, n: int, seed: list[int]) -> None:
        self._n = n
        generator = np.random.default_rng(seed)
        self._drawn = generator.permutation(n) if n <= DRAWN else None
        self._half = np.uint64((max(n - 1, 1).bit_length() + 1) // 2)
        self._keys = generator.integers(0, 2**64, size=ROUNDS, dtype=np.uint64)

    def __call__(self, first: int, n: int) -> Int64[np.ndarray, " n"]:
        """Return what is at the places ``first, ..., first + n - 1``, as far as there are any."""
        places = np.arange(first, min(first + n, self._n))
        if self._drawn is not None:
            return self._drawn[places]
        found = self._once(places.astype(np.uint64))
        outside = np.flatnonzero(found >= self._n)
        while len(outside):
            found[outside] = self._once(found[outside])
            outside = outside[found[outside] >= self._n]
        return found.astype(np.int64)

    def _once(self, numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        """Return a permutation of the numbers below the next power of four."""
        low = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & low)
        return (left << self._half) | right


def _mixed(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Return numbers of which every bit depends on all bits of ``x`` (the end of splitmix64); wraps around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
