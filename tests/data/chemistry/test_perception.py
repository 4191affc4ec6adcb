"""Stores get bonds, conformations of one compound share them, and what failed is counted and named."""

import dataclasses

import numpy as np
import pytest

from basinet.data.chemistry.perception import Perceiver, lacks_bonds, perceive_bonds, with_perceived_bonds
from basinet.data.readers import Reading, load_store
from basinet.data.store.store import MoleculeStore
from basinet.structures.molecule import Molecule
from basinet.structures.topology import rotors
from molecules import WATER, from_smiles, molecule
from reference import reference_file

ETHANOL = from_smiles("CCO")
BROKEN = molecule([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [0, 5, 0]], name="broken")


def frames(of: Molecule, n: int, displacement: float) -> list[Molecule]:
    """Return conformations without bonds, the undisplaced one last and lowest."""
    rng = np.random.default_rng(0)
    sizes = [*[displacement] * (n - 1), 0.0]
    return [
        molecule(
            of.atomic_numbers,
            of.positions + size * rng.normal(size=of.positions.shape),
            labels={"energy": float(size > 0)},
            name=f"frame {k}",
        )
        for k, size in enumerate(sizes)
    ]


def bonds_of(of: Molecule) -> list[list[int]]:
    assert of.bonds is not None
    return sorted(sorted(bond) for bond in of.bonds.tolist())


def test_a_trajectory_has_the_bonds_of_its_lowest_frame() -> None:
    store, report = perceive_bonds(MoleculeStore.from_molecules(frames(ETHANOL, 20, 0.05)))
    assert {str(bonds_of(m)) for m in store} == {str(bonds_of(ETHANOL))}
    assert [len(rotors(m)) for m in store] == [2] * 20
    assert (report.n_graphs, report.n_other, report.n_failed) == (1, 0, 0)
    assert str(report) == (
        "bonds: 20 of 20 perceived from coordinates; 0 conformations whose bonds differ from those of the lowest "
        "energy; 0 failed"
    )
    assert store.manifest.settings["bonds"] == report.to_record()
    assert store.bond_counts == {"bonds": 20, "bond_orders": 20}


def test_a_frame_in_which_a_bond_broke_is_counted_and_has_bonds_of_its_own_or_none() -> None:
    trajectory = frames(WATER, 5, 0.01)
    far = trajectory[1].positions.copy()
    far[1] += 5 * (far[1] - far[0])
    trajectory[1] = dataclasses.replace(trajectory[1], positions=far)
    store, report = perceive_bonds(MoleculeStore.from_molecules(trajectory))
    assert store[1].bonds is None
    assert store.gather(np.arange(5)).flags["has_bonds"].tolist() == [True, False, True, True, True]
    assert report.n_other == 1
    assert str(report).endswith("1 failed: H without a bond (1), first frame 1")


def test_isomers_with_the_same_atoms_in_the_same_order_keep_their_own_bonds() -> None:
    ether = from_smiles("COC")
    order = [0, 2, 1, *range(3, 9)]
    ether = molecule(ether.atomic_numbers[order], ether.positions[order])
    alcohol = molecule(ETHANOL.atomic_numbers, ETHANOL.positions)
    assert ether.atomic_numbers.tolist() == alcohol.atomic_numbers.tolist()
    store, report = perceive_bonds(MoleculeStore.from_molecules([ether, alcohol, ether, alcohol]))
    assert bonds_of(store[1]) == bonds_of(store[3]) == bonds_of(ETHANOL)
    assert bonds_of(store[0]) == bonds_of(store[2]) != bonds_of(ETHANOL)
    assert report.n_graphs == 2


def test_bonds_on_record_stay_unless_they_are_to_be_found_anew() -> None:
    assert ETHANOL.bonds is not None
    odd = dataclasses.replace(ETHANOL, bonds=ETHANOL.bonds[:1], bond_orders=np.ones(1))
    bare = molecule(ETHANOL.atomic_numbers, ETHANOL.positions)
    mixed = MoleculeStore.from_molecules([odd, bare])
    assert lacks_bonds(mixed)
    store, report = perceive_bonds(mixed)
    assert bonds_of(store[0]) == bonds_of(odd)
    assert bonds_of(store[1]) == bonds_of(ETHANOL)
    assert str(report).startswith("bonds: 1 of 2 on record; 1 of 2 perceived from coordinates")
    assert not lacks_bonds(store)
    again, _ = perceive_bonds(mixed, anew=True)
    assert bonds_of(again[0]) == bonds_of(ETHANOL)


def test_everything_else_of_a_store_stays() -> None:
    before = MoleculeStore.from_molecules(frames(ETHANOL, 4, 0.02), level_of_theory="DFT", source="a test")
    after, _ = perceive_bonds(before)
    assert after.manifest.level_of_theory == "DFT"
    assert after.manifest.source == "a test"
    assert after.label_counts == before.label_counts
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert (a.labels, a.name) == (b.labels, b.name)
    assert perceive_bonds(before)[0].fingerprint == after.fingerprint != before.fingerprint


def test_molecules_that_stream_get_bonds_or_the_one_that_has_none_is_named() -> None:
    assert [len(bonds_of(m)) for m in with_perceived_bonds(iter([*frames(ETHANOL, 3, 0.02), ETHANOL]))] == [8] * 4
    with pytest.raises(ValueError, match=r"^broken has no bonds on record, which this model needs, .*H without a bond"):
        list(with_perceived_bonds(iter([WATER, BROKEN])))


@pytest.mark.parametrize(("name", "n_rotors"), [("aspirin", 5), ("malonaldehyde", 2), ("uracil", 0)])
def test_published_trajectories_have_the_graph_of_their_compound(name: str, n_rotors: int) -> None:
    store, _ = load_store(reference_file(f"rmd17/rmd17_{name}.npz"), Reading(energy_unit="kcal/mol"))
    few = MoleculeStore.from_molecules([store[i] for i in range(0, len(store), 60)])
    perceived, report = perceive_bonds(few)
    assert (report.n_graphs, report.n_other, report.n_failed) == (1, 0, 0)
    assert {len(rotors(m)) for m in perceived} == {n_rotors}


def test_a_stream_that_begins_with_a_stretched_bond_has_the_bonds_of_its_later_frames() -> None:
    still = molecule(WATER.atomic_numbers, WATER.positions)
    positions = WATER.positions.copy()
    positions[1] += 0.48 * (positions[1] - positions[0])
    stretched = molecule(WATER.atomic_numbers, positions, name="first")
    with pytest.raises(ValueError, match="first has no bonds on record"):
        list(with_perceived_bonds(iter([stretched])))
    for labels in ({}, {"energy": 0.0}):
        frames_in_time = [stretched, dataclasses.replace(still, labels=labels)]
        assert [len(bonds_of(m)) for m in with_perceived_bonds(iter(frames_in_time))] == [2, 2]


def test_isomers_that_take_turns_in_a_stream_keep_their_own_bonds() -> None:
    ether = from_smiles("COC")
    order = [0, 2, 1, *range(3, 9)]
    ether = molecule(ether.atomic_numbers[order], ether.positions[order])
    alcohol = molecule(ETHANOL.atomic_numbers, ETHANOL.positions)
    found = [bonds_of(m) for m in with_perceived_bonds(iter([ether, alcohol] * 200))]
    assert found == [bonds_of(perceive_bonds(MoleculeStore.from_molecules([m]))[0][0]) for m in (ether, alcohol)] * 200
    assert found[0] != found[1]


def test_a_stream_may_go_on_without_the_bonds_that_cannot_be_told() -> None:
    perceiver = Perceiver()
    bare = molecule(ETHANOL.atomic_numbers, ETHANOL.positions)
    found = list(with_perceived_bonds(iter([BROKEN, bare, ETHANOL]), perceiver))
    assert [m.bonds is None for m in found] == [True, False, False]
    assert (perceiver.report.n_failed, perceiver.report.n_perceived, perceiver.report.on_record) == (1, 1, 1)
