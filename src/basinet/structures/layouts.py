"""Choose the layout of the neighbours of a batch."""

from basinet.structures.batch import Batch
from basinet.structures.dense import DenseNeighbors
from basinet.structures.neighbors import Neighbors
from basinet.structures.pairs import pairs_within
from basinet.structures.sparse import SparseNeighbors

EDGE_COST = 1.5
"""Time for an edge of a list in times for a pair of a block, on a CPU: 1.0 to 1.9 with the Equivariant Transformer."""
DENSE_LIMIT = 64
"""Atoms. Batches whose largest molecule is above this use the sparse layout."""


def neighbors_of(batch: Batch, cutoff: float | None) -> Neighbors:
    """Return the neighbours within ``cutoff`` Å in the layout that suits the molecules of the batch.

    Blocks up to :data:`DENSE_LIMIT` atoms; on a CPU a list of edges also where most of the blocks would be padding or
    pairs beyond the cutoff: molecules of different sizes, or long ones.
    """
    largest = int(batch.atoms_per_molecule.max()) if batch.n_molecules else 0
    if largest > DENSE_LIMIT:
        return SparseNeighbors(batch, cutoff)
    if batch.positions.device.type == "cpu":
        pairs = pairs_within(batch, cutoff)
        n_edges = 2 * len(pairs.first) + batch.n_atoms
        if batch.n_molecules * largest**2 > EDGE_COST * n_edges:
            return SparseNeighbors(batch, cutoff, pairs)
    return DenseNeighbors(batch, cutoff)
