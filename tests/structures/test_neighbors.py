import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from torch import Tensor

from basinet.structures import pairs as module
from basinet.structures.batch import Batch, collate, unbatch
from basinet.structures.dense import DenseNeighbors
from basinet.structures.layouts import DENSE_LIMIT, neighbors_of
from basinet.structures.neighbors import Neighbors
from basinet.structures.sparse import SparseNeighbors
from molecules import BENZENE, ETHANOL, HELIUM, SMALL, WATER, apart, molecule

ROUNDING = 1e-12
"""Å: float64, sums of a hundred numbers of order one."""
CUTOFFS = [0.5, 2.0, 5.0, None]
LAYOUTS = [DenseNeighbors, SparseNeighbors]


def cloud(*sizes: int, edge: float, seed: int = 0) -> Batch:
    """Return molecules of atoms scattered in boxes of ``edge`` Å."""
    rng = np.random.default_rng(seed)
    return Batch(
        atomic_numbers=torch.full((sum(sizes),), 6),
        positions=torch.from_numpy(rng.uniform(0, edge, size=(sum(sizes), 3))),
        molecule=torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
        n_molecules=len(sizes),
    )


def pairs_of_double_loop(batch: Batch, cutoff: float | None) -> set[tuple[int, int]]:
    x, of = batch.positions.numpy(), batch.molecule.tolist()
    near = (
        (i, j)
        for i, j in itertools.product(range(len(x)), repeat=2)
        if of[i] == of[j] and (i == j or cutoff is None or np.linalg.norm(x[i] - x[j]) < cutoff)
    )
    return set(near)


def pairs_of(neighbors: SparseNeighbors) -> list[tuple[int, int]]:
    return list(zip(neighbors.receiver.tolist(), neighbors.sender.tolist(), strict=True))


def sums(neighbors: Neighbors, batch: Batch) -> tuple[Tensor, ...]:
    """Return everything a backbone can compute of its neighbours, from filters that tell distances apart."""
    filters = torch.stack([torch.exp(-neighbors.distances), 1 + neighbors.distances.square()], dim=-1)
    every, others = neighbors.to_edges(filters), neighbors.to_edges(filters, self_edges=False)
    x = batch.positions[:, :2] - batch.positions[0, 0]
    products = neighbors.of_receiver(x) * neighbors.of_sender(x + 1)
    vectors = batch.positions[:, :, None].expand(-1, -1, 2)
    return (
        neighbors.weighted_sum(others, x),
        neighbors.weighted_sum(every * products, x),
        neighbors.weighted_sum(every, vectors),
        neighbors.directed_sum(every * products),
        neighbors.message_sum(others * products),
    )


def sums_of_double_loop(batch: Batch, cutoff: float | None) -> tuple[Tensor, ...]:
    r = batch.positions
    x = r[:, :2] - r[0, 0]
    vectors = r[:, :, None].expand(-1, -1, 2)
    total = tuple(torch.zeros_like(like) for like in (x, x, vectors, vectors, x))
    for i, j in pairs_of_double_loop(batch, cutoff):
        distance = torch.linalg.vector_norm(r[j] - r[i])
        unit = (r[j] - r[i]) / distance if i != j else torch.zeros_like(r[i])
        weight = torch.stack([torch.exp(-distance), 1 + distance**2])
        product = x[i] * (x[j] + 1)
        total[0][i] += weight * x[j] * (i != j)
        total[1][i] += weight * product * x[j]
        total[2][i] += weight * vectors[j]
        total[3][i] += unit[:, None] * weight * product
        total[4][i] += weight * product * (i != j)
    return total


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_over_neighbours_are_those_of_a_double_loop(
    layout: type[DenseNeighbors] | type[SparseNeighbors], cutoff: float | None
) -> None:
    batch = collate([ETHANOL, HELIUM, apart(WATER, WATER, 4.0)], dtype=torch.float64)
    for ours, slow in zip(sums(layout(batch, cutoff), batch), sums_of_double_loop(batch, cutoff), strict=True):
        assert ours.shape == slow.shape
        error = (ours - slow).abs().max() / slow.abs().max().clamp_min(1)
        assert error < ROUNDING, f"largest relative error {error:.2e}"


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_edges_are_the_pairs_of_a_double_loop_each_once(cutoff: float | None) -> None:
    batch = collate(SMALL, dtype=torch.float64)
    found = pairs_of(SparseNeighbors(batch, cutoff))
    assert len(found) == len(set(found))
    assert set(found) == pairs_of_double_loop(batch, cutoff)


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_a_quantity_of_all_pairs_of_atoms_is_brought_to_the_edges_of_those_that_are_neighbours(
    cutoff: float | None,
) -> None:
    batch = collate([ETHANOL, HELIUM, BENZENE], dtype=torch.float64)
    n_max = 12
    code = torch.arange(1, 3 * n_max**2 + 1, dtype=torch.float64).reshape(3, n_max, n_max)
    code = code + code.mT  # of unordered pairs
    place = torch.cat([torch.arange(9), torch.arange(1), torch.arange(12)])
    expected = torch.zeros(22, 22, dtype=torch.float64)
    for i, j in pairs_of_double_loop(batch, cutoff):
        expected[i, j] = code[batch.molecule[i], place[i], place[j]] * (i != j)
    sparse, dense = SparseNeighbors(batch, cutoff), DenseNeighbors(batch, cutoff)
    found = torch.zeros_like(expected)
    found[sparse.receiver, sparse.sender] = sparse.to_edges(sparse.of_blocks(code)[..., None])[..., 0]
    assert torch.equal(found, expected)
    blocks = dense.to_edges(dense.of_blocks(code)[..., None])[..., 0]
    assert torch.equal(torch.block_diag(blocks[0, :9, :9], blocks[1, :1, :1], blocks[2]), expected)


@pytest.mark.parametrize("seed", range(3))
def test_edges_are_those_of_ase(seed: int) -> None:
    batch = cloud(60, edge=9.0, seed=seed)
    receiver, sender, vector = neighbor_list("ijD", Atoms("C60", positions=batch.positions.numpy()), 5.0)
    neighbors = SparseNeighbors(batch, 5.0)
    ours = {pair for pair in pairs_of(neighbors) if pair[0] != pair[1]}
    assert ours == set(zip(receiver.tolist(), sender.tolist(), strict=True))
    unit = torch.zeros(60, 3, dtype=torch.float64)
    unit.index_add_(0, torch.from_numpy(receiver), torch.from_numpy(vector / np.linalg.norm(vector, axis=1)[:, None]))
    ones = neighbors.to_edges(torch.ones_like(neighbors.distances)[:, None])
    error = (neighbors.directed_sum(ones)[:, :, 0] - unit).abs().max()
    assert error < ROUNDING, f"largest error {error:.2e}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_atom_may_have_any_number_of_neighbours(layout: type[DenseNeighbors] | type[SparseNeighbors]) -> None:
    batch = cloud(100, edge=3.0 / 3**0.5)
    neighbors = layout(batch, 3.0)
    ones = neighbors.to_edges(torch.ones_like(neighbors.distances)[..., None])
    assert torch.equal(neighbors.weighted_sum(ones, ones.new_ones(100, 1)), ones.new_full((100, 1), 100))


def test_distances_are_of_each_pair_once_and_then_a_zero() -> None:
    neighbors = SparseNeighbors(collate([BENZENE], dtype=torch.float64), None)
    assert len(neighbors.distances) == 12 * 11 // 2 + 1
    assert neighbors.distances[-1] == 0
    expected = torch.pdist(torch.from_numpy(BENZENE.positions)).sort().values
    assert (neighbors.distances[:-1].sort().values - expected).abs().max() < ROUNDING


def test_a_pair_at_the_cutoff_is_outside() -> None:
    batch = collate([molecule([2, 2], [[0, 0, 0], [0, 0, 3.0]])], dtype=torch.float64)
    assert len(SparseNeighbors(batch, 3.0).receiver) == 2
    assert len(SparseNeighbors(batch, np.nextafter(3.0, 4)).receiver) == 4


def test_the_search_in_chunks_finds_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = cloud(20, 1, 33, edge=8.0)
    at_once = pairs_of(SparseNeighbors(batch, 5.0))
    for size in (1, 7, 100):
        monkeypatch.setattr(module, "PAIRS_PER_CHUNK", size)
        assert pairs_of(SparseNeighbors(batch, 5.0)) == at_once


def test_the_layout_suits_the_molecules() -> None:
    compact = 1.5
    assert isinstance(neighbors_of(cloud(DENSE_LIMIT, edge=compact), 5.0), DenseNeighbors)
    assert isinstance(neighbors_of(cloud(DENSE_LIMIT + 1, edge=compact), 5.0), SparseNeighbors)
    assert isinstance(neighbors_of(cloud(8, 8, 8, edge=compact), 5.0), DenseNeighbors)
    assert isinstance(neighbors_of(cloud(20, 3, 3, edge=compact), None), SparseNeighbors)  # mostly padding
    assert isinstance(neighbors_of(cloud(30, edge=40.0), 5.0), SparseNeighbors)  # mostly beyond the cutoff
    assert isinstance(neighbors_of(cloud(3, edge=3.0).select([]), 5.0), DenseNeighbors)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_molecules_do_not_see_each_other(layout: type[DenseNeighbors] | type[SparseNeighbors]) -> None:
    batch = cloud(5, 2, 8, edge=2.0)
    together = sums(layout(batch, None), batch)[2]
    for k, part in enumerate(unbatch(together, batch)):
        alone = batch.select([k])
        assert (part - sums(layout(alone, None), alone)[2]).abs().max() < ROUNDING
