"""How many molecules are sorted and cut into batches of similar molecules, and read together."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from basinet.data.store.store import MoleculeStore
from basinet.structures import Batch


def gather_each(store: MoleculeStore, plan: Sequence[Int64[np.ndarray, " _"]]) -> Iterator[Batch]:
    """Read the molecules of several batches at once, and return an iterator over the batches."""
    if not plan:
        return iter(())
    return store.gather(np.concatenate(plan)).split([len(chosen) for chosen in plan])


def by_size(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return what sorts molecules by size, in a time that does not grow faster than their number.

    Sizes that do not fit 16 bits count as alike.
    """
    return np.argsort(np.minimum(sizes, 2**16 - 1).astype(np.uint16), kind="stable")


def cuts_by_atoms(sizes: Int64[np.ndarray, " n"], batch_atoms: int) -> Int64[np.ndarray, " _"]:
    """Return where to cut a list of molecules so that the pieces have equal numbers of atoms, ``batch_atoms`` at most.

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
    """Return where to cut a list of molecules into a number of pieces with equal numbers of atoms, to a molecule.

    No piece is empty if there are as many molecules as pieces.
    """
    number = np.arange(1, n_pieces)
    middles = np.cumsum(sizes) - sizes / 2
    cuts = np.searchsorted(middles, sizes.sum() * number / n_pieces)
    if len(sizes) < n_pieces:
        return cuts
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - number) + number  # strictly ascending
    return np.minimum(cuts, len(sizes) - n_pieces + number)
