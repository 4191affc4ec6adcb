"""The shapes that molecules are padded to where a network is compiled."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from basinet.structures.layouts import DENSE_LIMIT

CHUNK = 16
"""Molecules in a chunk on a CPU, at most. Larger ones waste more where few molecules are left over."""
MOST_SIZES = 4
"""Sizes that molecules are padded to, at most: each needs graphs of its own."""
PADDING = 1.3
"""Fewer sizes will do if pairs of atoms, padding included, are at most this many times the real ones."""


class Shapes(NamedTuple):
    """The shapes that batches are cut to."""

    n_molecules: int
    """Molecules in a chunk."""
    sizes: tuple[int, ...]
    """Atoms that molecules are padded to, ascending."""


def shapes_for(
    n_atoms: Int[np.ndarray, " n_molecules"], n_molecules: int, *, chunk: int | None = CHUNK
) -> Shapes | None:
    """Return the shapes for molecules of given sizes, so many of them at a time; ``None``: all are too large.

    Args:
        n_atoms: of each molecule of the data.
        n_molecules: in a batch.
        chunk: the most molecules in a chunk; ``None``: no limit.
    """
    fitting = n_atoms[n_atoms <= DENSE_LIMIT]
    if not len(fitting):
        return None
    n_chunks = 1 if chunk is None else math.ceil(n_molecules / chunk)
    sizes, counts = np.unique(fitting, return_counts=True)
    pairs = float((counts * sizes.astype(float) ** 2).sum())
    options = (_best_sizes(sizes, counts, n_sizes) for n_sizes in range(1, MOST_SIZES + 1))
    chosen = next((option for cost, option in options if cost <= PADDING * pairs), None)
    if chosen is None:
        _, chosen = _best_sizes(sizes, counts, MOST_SIZES)
    return Shapes(math.ceil(n_molecules / n_chunks), chosen)


def _best_sizes(sizes: np.ndarray, counts: np.ndarray, n_sizes: int) -> tuple[float, tuple[int, ...]]:
    """Return the sizes to pad to that make the fewest pairs, and how many; the largest is always one of them."""
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] * (len(sizes) + 1)
    total = np.concatenate([[0], np.cumsum(counts)])
    for k in range(n_sizes):
        following = list(best)
        for end in range(1, len(sizes) + 1):
            starts = range(end) if k else range(1)
            options = [
                (best[start][0] + float(total[end] - total[start]) * float(sizes[end - 1]) ** 2, start)
                for start in starts
            ]
            cost, start = min(options)
            following[end] = (cost, (*best[start][1], int(sizes[end - 1])))
        best = following
    return best[-1]
