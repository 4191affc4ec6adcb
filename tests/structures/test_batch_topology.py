import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basinet.structures.batch import Batch, collate
from basinet.structures.batch_topology import BatchTopology, Runs
from basinet.structures.blocks import adjacency_blocks, place_in_molecule
from basinet.structures.molecule import Molecule
from basinet.structures.topology import rotors
from molecules import HELIUM, METHANE, WATER, from_smiles, molecule

ETHANOL, BUTANE, BENZENE, ASPIRIN = (from_smiles(s) for s in ("CCO", "CCCC", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O"))
WITHOUT_ORDERS = molecule(WATER.atomic_numbers, WATER.positions, bonds=np.array([[0, 1], [0, 2]]), name="water")
KNOWN = [ETHANOL, BENZENE, BUTANE, ASPIRIN]
MIXED = [ETHANOL, WATER, BUTANE, WITHOUT_ORDERS, HELIUM, BENZENE]


def topology_of(batch: Batch) -> BatchTopology:
    assert batch.topology is not None
    return batch.topology


def assert_same(a: BatchTopology, b: BatchTopology) -> None:
    for first, second in ((a, b), (a.rotors, b.rotors)):
        for field in dataclasses.fields(first):
            x, y = getattr(first, field.name), getattr(second, field.name)
            if isinstance(x, torch.Tensor):
                assert x.dtype == y.dtype, field.name
                assert torch.equal(x.nan_to_num(7), y.nan_to_num(7)), field.name


def rotors_of(batch: Batch) -> list[tuple[int, int, int, set[int]]]:
    """Return (fixed, turning, rank, moved atoms) of each rotor."""
    table = topology_of(batch).rotors
    moved = [set(table.moved_atom[table.moved_rotor == r].tolist()) for r in range(table.n_rotors)]
    return [(*axis, rank, of) for axis, rank, of in zip(table.axis.tolist(), table.rank.tolist(), moved, strict=True)]


def test_bonds_and_rotors_are_those_of_the_molecules_one_by_one() -> None:
    batch = collate(KNOWN)
    first = batch.first_atom.tolist()
    bonds, expected = [], []
    for start, m in zip(first, KNOWN, strict=True):
        assert m.bonds is not None
        bonds += (m.bonds + start).tolist()
        for rank, rotor in enumerate(rotors(m)):
            fixed, turning = rotor.axis
            moved = {start + int(atom) for atom in np.flatnonzero(rotor.moved)}
            expected.append((start + fixed, start + turning, rank, moved))
    assert topology_of(batch).bonds.tolist() == bonds
    assert rotors_of(batch) == expected
    assert len(expected) == 2 + 0 + 3 + 5


def test_the_heavy_rotors_of_a_batch_are_those_of_its_molecules_and_move_the_same_atoms() -> None:
    batch = collate([*KNOWN, from_smiles("CC(=O)NC"), from_smiles("CC(F)(F)F")])
    heavy = topology_of(batch).heavy_rotors(batch.atomic_numbers)
    chosen = dataclasses.replace(batch, topology=dataclasses.replace(topology_of(batch), rotors=heavy))
    everything = rotors_of(batch)
    found = rotors_of(chosen)
    assert all(rotor in everything for rotor in found)
    first = batch.first_atom.tolist()
    expected = [
        (start + r.axis[0], start + r.axis[1])
        for start, m in zip(first, [*KNOWN, from_smiles("CC(=O)NC"), from_smiles("CC(F)(F)F")], strict=True)
        for r in rotors(m, "heavy")
    ]
    assert [rotor[:2] for rotor in found] == expected
    assert len(expected) == 0 + 0 + 1 + 3 + 1 + 0


def test_unknown_bonds_are_told_from_no_bonds() -> None:
    topology = topology_of(collate(MIXED))
    assert topology.has_bonds.tolist() == [True, False, True, True, False, True]
    assert topology.has_rotors.tolist() == [True, False, True, False, False, True]
    assert int(topology.bond_orders.isnan().sum()) == 2


def test_molecules_without_any_bonds_have_no_topology() -> None:
    batch = collate([WATER, METHANE])
    assert batch.topology is None
    assert batch.select([1]).topology is None
    assert batch.to("cpu").topology is None


@given(st.lists(st.integers(0, len(MIXED) - 1), min_size=1, max_size=8))
def test_selecting_molecules_is_collating_the_selected(keep: list[int]) -> None:
    chosen = collate(MIXED).select(keep)
    again = collate([MIXED[k] for k in keep]).topology
    if again is not None:
        assert_same(topology_of(chosen), again)
    assert topology_of(chosen).has_bonds.tolist() == [MIXED[k].bonds is not None for k in keep]


@pytest.mark.parametrize("sizes", [[6], [2, 4], [0, 1, 0, 3, 2, 0], [1] * 6])
def test_splitting_a_batch_is_selecting_its_molecules_in_turn(sizes: list[int]) -> None:
    batch = collate(MIXED)
    parts = list(batch.split(sizes))
    first = 0
    for part, size in zip(parts, sizes, strict=True):
        alone = batch.select(list(range(first, first + size)))
        assert torch.equal(part.positions, alone.positions) and torch.equal(part.molecule, alone.molecule)
        assert part.ids is not None and part.ids.tolist() == list(range(first, first + size))
        assert part.n_molecules == size
        assert_same(topology_of(part), topology_of(alone))
        first += size


def test_nothing_can_be_selected() -> None:
    empty = collate(MIXED).select([])
    assert (len(topology_of(empty).bonds), topology_of(empty).rotors.n_rotors) == (0, 0)
    assert_same(topology_of(empty.select([])), topology_of(empty))
    assert adjacency_blocks(empty).shape == (0, 0, 0)


def test_the_bond_graph_stays_when_positions_change_or_move() -> None:
    batch = collate(KNOWN)
    assert batch.replace(positions=batch.positions + 1).topology is batch.topology
    assert batch.without_labels().topology is batch.topology
    assert_same(topology_of(batch.to("cpu", dtype=torch.float64)), topology_of(batch))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_runs_are_the_rows_of_the_chosen_groups(count: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(count) - 1), max_size=6))
    groups = np.split(np.arange(sum(count)), np.cumsum(count)[:-1])
    found = Runs.of(torch.tensor(count), torch.tensor(chosen, dtype=torch.int64))
    assert found.rows.tolist() == [row for group in chosen for row in groups[group]]
    assert found.place.tolist() == [k for k, group in enumerate(chosen) for _ in groups[group]]


def test_blocks_hold_every_bond_in_both_directions_and_nothing_else() -> None:
    batch = collate(KNOWN)
    blocks = adjacency_blocks(batch)
    assert blocks.shape == (4, 21, 21)
    for block, m in zip(blocks, KNOWN, strict=True):
        assert m.bonds is not None
        expected = torch.zeros(21, 21, dtype=torch.bool)
        for i, j in m.bonds.tolist():
            expected[i, j] = expected[j, i] = True
        assert torch.equal(block, expected)


def test_atoms_are_numbered_within_their_molecule() -> None:
    assert place_in_molecule(collate([WATER, HELIUM, METHANE])).tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(("molecules", "count"), [([WATER, HELIUM], "2 of 2"), (MIXED, "2 of 6")])
def test_blocks_of_unknown_bonds_are_refused(molecules: list[Molecule], count: str) -> None:
    with pytest.raises(ValueError, match=f"{count} molecules have no bonds on record; read them from a format"):
        adjacency_blocks(collate(molecules))
