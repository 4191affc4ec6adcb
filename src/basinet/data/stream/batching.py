"""Order, cut and read molecules for batches."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64, UInt64

from basinet.data.store.store import MoleculeStore
from basinet.structures import Batch


def gather_each(store: MoleculeStore, plan: Sequence[Int64[np.ndarray, " _"]]) -> Iterator[Batch]:
    """Read the molecules of several batches at once, and return an iterator over the batches."""
    if not plan:
        return iter(())
    return store.gather(np.concatenate(plan)).split([len(chosen) for chosen in plan])


def by_size(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return the order by size, in linear time: 16-bit integers have a radix sort. Larger sizes count as equal."""
    return np.argsort(np.minimum(sizes, 2**16 - 1).astype(np.uint16), kind="stable")


def cuts_by_atoms(sizes: Int64[np.ndarray, " n"], batch_atoms: int) -> Int64[np.ndarray, " _"]:
    """Return where to cut molecules into pieces with equal numbers of atoms, at most ``batch_atoms``.

    A molecule that has more is a piece of its own.
    """
    ends = np.cumsum(sizes)
    n_pieces = max(1, -(-int(ends[-1]) // batch_atoms))
    while True:
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, n_pieces) / n_pieces, side="right")
        cuts = np.unique(cuts[(cuts > 0) & (cuts < len(sizes))])
        atoms, molecules = np.add.reduceat(sizes, [0, *cuts]), np.diff([0, *cuts, len(sizes)])
        if not ((atoms > batch_atoms) & (molecules > 1)).any():
            return cuts
        n_pieces += 1 + n_pieces // 50


def equal_cuts(sizes: Int64[np.ndarray, " n"], n_pieces: int) -> Int64[np.ndarray, " n_cuts"]:
    """Return where to cut molecules into ``n_pieces`` with equal numbers of atoms, up to a molecule.

    No piece is empty if there are at least as many molecules as pieces.
    """
    number = np.arange(1, n_pieces)
    middles = np.cumsum(sizes) - sizes / 2
    cuts = np.searchsorted(middles, sizes.sum() * number / n_pieces)
    if len(sizes) < n_pieces:
        return cuts
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - number) + number  # strictly ascending
    return np.minimum(cuts, len(sizes) - n_pieces + number)


DRAWN = 2**20
"""Largest permutation that is drawn and kept (8 MB); larger ones are computed place by place."""
ROUNDS = 6


class Permutation:
    r"""A random permutation of ``0, ..., n - 1``, read piece by piece.

    Small ones are drawn uniformly. A drawn permutation of 15 million would take 120 MB and a second at the beginning of
    each epoch; above ``DRAWN`` it is a Feistel network on the halves :math:`(l, r)` of the bits of a number,

    .. math:: (l, r) \to (r, l \oplus f_k(r)),

    with a mixing function :math:`f_k` for each round (that of splitmix64, with random keys). Every round is invertible,
    so it is a permutation of the next power of four; a number of ``n`` or more is mapped again until it is below ``n``
    (cycle walking; Black and Rogaway, CT-RSA 2002). Four rounds are indistinguishable from random for a good :math:`f`
    (Luby and Rackoff, 1988); this one has six.

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
        """Return the entries at places ``first, ..., first + n - 1`` that exist."""
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
    """Return hashes whose bits depend on all bits of ``x`` (the end of splitmix64); wraps around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


Place = TypeVar("Place")
Data = TypeVar("Data")


class ReadAhead(Generic[Place, Data]):
    """Reads the data of the next place in a thread.

    A thread and not a process, because waiting for the disk and copying rows release the GIL, and batches from another
    process would be copied once more. An error in the thread is raised by :meth:`take`.
    """

    def __init__(self, read: Callable[[Place], Data]) -> None:
        self._read = read
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[Place, Future[Data]] | None = None

    def begin(self, place: Place) -> None:
        """Begin to read a place, unless it has begun; drop the data of another place."""
        if self._ahead is not None and self._ahead[0] == place:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead = (place, self._thread.submit(self._read, place))

    def take(self, place: Place) -> Data | None:
        """Wait for the data of a place and return it, once; ``None`` if another place, or none, was begun."""
        known, self._ahead = self._ahead, None
        return known[1].result() if known is not None and known[0] == place else None
