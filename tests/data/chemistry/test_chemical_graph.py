"""Bonds from a SMILES or from coordinates are those of the compound."""

import dataclasses

import numpy as np
import pytest

from basinet.data.chemistry.chemical_graph import PerceptionError, agrees, connectivity, perceive
from basinet.structures.molecule import Molecule
from basinet.structures.topology import rotor_table
from molecules import HELIUM, WATER, from_ase, from_smiles, molecule, permuted

SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O",  # aspirin
    "CNc1ccc([N+](=O)[O-])cc1",  # RDKit alone finds no bond orders of an aromatic nitro group
    "NS(=O)(=O)c1cc(Br)c(S(=O)(=O)C)s1",  # and too many bonds of sulphur in a ring
    "S=C(SCC)N1CCOCC1",
    "CC(C)P(=O)(O)OC",
    "CC#CC(=O)NC",
    "C1CC2CC1O2",
    "O=c1cc[nH]c(=O)[nH]1",
    "[O-]C(=O)C[NH3+]",
    "CCS(C)=O",
    "FC(F)(Cl)CBr",
    "c1ccc2ccccc2c1",
]
CHARGED = ["C[NH3+]", "CC(=O)[O-]", "C[N+](C)(C)CC(=O)[O-]", "c1cc[nH+]cc1"]


def without_bonds(of: Molecule, smiles: str = "") -> Molecule:
    return dataclasses.replace(of, bonds=None, bond_orders=None, smiles=smiles)


def bonds_of(bonds: np.ndarray | None) -> set[frozenset[int]]:
    assert bonds is not None
    return {frozenset(bond) for bond in bonds.tolist()}


def rotors_of(of: Molecule, bonds: np.ndarray, orders: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(row[:2]) for row in rotor_table(of.n_atoms, bonds, orders).rotors.tolist()}


def with_charge(smiles: str) -> Molecule:
    return from_smiles(smiles, charge=smiles.count("+") - smiles.count("-]"))


@pytest.mark.parametrize("smiles", SMILES + CHARGED)
@pytest.mark.parametrize("known", [False, True], ids=["coordinates", "SMILES"])
def test_bonds_and_rotors_are_those_of_the_compound_in_any_order_of_atoms(smiles: str, known: bool) -> None:
    mixed = permuted(with_charge(smiles), np.random.default_rng(1).permutation(with_charge(smiles).n_atoms).tolist())
    assert mixed.bonds is not None
    assert mixed.bond_orders is not None
    graph = perceive(without_bonds(mixed, smiles if known else ""))
    assert graph.source == ("SMILES" if known else "coordinates")
    assert bonds_of(graph.bonds) == bonds_of(mixed.bonds)
    expected = rotors_of(mixed, mixed.bonds, mixed.bond_orders)
    assert rotors_of(mixed, graph.bonds, graph.orders) == expected


def test_a_smiles_that_does_not_fit_the_coordinates_is_not_used() -> None:
    ethanol = without_bonds(from_smiles("CCO"))
    for wrong in ("COC", "CCN", "no smiles"):
        graph = perceive(dataclasses.replace(ethanol, smiles=wrong))
        assert graph.source == "coordinates"
        assert bonds_of(graph.bonds) == bonds_of(from_smiles("CCO").bonds)


def test_without_bond_orders_only_bonds_that_valence_shows_to_be_single_are_rotors() -> None:
    # A radical: no closed shell has its bonds. CH3-CH2 is single because of CH3; C-O of a hydroxyl because of O.
    propanol = from_smiles("CCC(=O)O")
    radical = molecule(propanol.atomic_numbers[:-1], propanol.positions[:-1])  # without one hydrogen
    graph = perceive(radical)
    assert graph.source == "coordinates, without all bond orders"
    orders = {frozenset(b): o for b, o in zip(graph.bonds.tolist(), graph.orders.tolist(), strict=True)}
    assert orders[frozenset((0, 1))] == 1
    assert np.isnan(orders[frozenset((2, 3))])
    found = rotors_of(radical, graph.bonds, graph.orders)
    assert found <= rotors_of(propanol, *(x for x in (propanol.bonds, propanol.bond_orders) if x is not None))
    assert frozenset((0, 1)) in found


def test_an_atom_that_may_be_in_a_triple_bond_makes_no_rotor_without_orders() -> None:
    nitrile = from_smiles("CCC#N")
    radical = molecule(nitrile.atomic_numbers[:-1], nitrile.positions[:-1])
    graph = perceive(radical)
    assert graph.source == "coordinates, without all bond orders"
    orders = {frozenset(b): o for b, o in zip(graph.bonds.tolist(), graph.orders.tolist(), strict=True)}
    assert np.isnan(orders[frozenset((1, 2))])
    assert orders[frozenset((0, 1))] == 1


def test_small_things_have_the_bonds_they_should_have() -> None:
    for m, bonds in ((HELIUM, []), (WATER, [[0, 1], [0, 2]]), (from_ase("CO"), [[0, 1]]), (from_ase("H2"), [[0, 1]])):
        assert perceive(m).bonds.tolist() == bonds
    assert perceive(from_ase("CO")).orders.tolist() == [3.0]


def test_stretched_hydrogens_go_to_their_nearest_atom() -> None:
    stretched = dataclasses.replace(WATER, positions=WATER.positions * 1.4)  # O-H of 1.36 Å
    assert connectivity(stretched).tolist() == [[0, 1], [0, 2]]


def test_what_cannot_be_a_molecule_is_refused_with_a_short_reason() -> None:
    with pytest.raises(PerceptionError, match="^H without a bond$"):
        perceive(molecule([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [0, 5, 0]]))
    methane = from_ase("CH4")
    crowded = molecule([*methane.atomic_numbers, 9], [*methane.positions, [1.3, 0, 0]])
    with pytest.raises(PerceptionError, match="^[CHF] with too many neighbours$"):
        perceive(crowded)


def test_a_conformation_agrees_until_a_bond_breaks_or_forms() -> None:
    graph = perceive(WATER)
    for factor, same in ((0.9, True), (1.0, True), (1.45, True), (1.6, False)):
        assert agrees(graph, dataclasses.replace(WATER, positions=WATER.positions * factor)) is same
    # The proton of malonaldehyde's enol on the other oxygen, or half-way.
    numbers, oxygens = [8, 8, 1], [[0.0, 0, 0], [2.5, 0, 0]]
    bound = perceive(molecule(numbers, [*oxygens, [0.97, 0, 0]]))
    assert bound.bonds.tolist() == [[0, 2]]
    assert agrees(bound, molecule(numbers, [*oxygens, [1.2, 0, 0]]))
    assert not agrees(bound, molecule(numbers, [*oxygens, [1.5, 0, 0]]))
