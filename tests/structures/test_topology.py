from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from basinet.structures import Molecule, StructureError
from basinet.structures.batch import collate
from basinet.structures.blocks import hop_blocks
from basinet.structures.topology import adjacency, rotors, side_of
from molecules import WATER, embedded, from_rdkit, from_smiles, molecule

ROTORS = {
    "CCO": (2, 0),
    "CCCC": (3, 1),
    "c1ccccc1": (0, 0),
    "Cc1ccccc1": (1, 0),
    "CC(=O)Oc1ccccc1C(=O)O": (5, 3),
    "OC(=O)c1ccccc1O": (3, 1),
    "O=CCC=O": (2, 2),
    "c1ccc2ccccc2c1": (0, 0),
    "O=c1cc[nH]c(=O)[nH]1": (0, 0),
    "CC(=O)C": (2, 0),
    "CC(=O)NC": (3, 1),
    "CC#N": (0, 0),
    "CC#CC": (0, 0),
    "C1CC1C1CC1": (1, 1),
    "c1ccccc1-c1ccccc1": (1, 1),
    "CS(=O)(=O)N": (2, 0),
    "OO": (1, 0),
    "O": (0, 0),
    "CC(F)(F)F": (1, 0),
}
"""Rotatable bonds with hydrogens explicit, and of the molecule without them, as the SMARTS of Frad (Feng et al., ICML
2023) finds them."""

SMARTS = "[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]"

Edges = list[tuple[int, int]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, Edges]:
    """Draw graphs of up to eight atoms, connected or not."""
    n = draw(st.integers(1, 8))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    return n, draw(st.lists(st.sampled_from(pairs), unique=True, max_size=12)) if pairs else []


def bonds_of(edges: Edges) -> np.ndarray:
    return np.array(edges, dtype=np.int64).reshape(-1, 2)


def reached_by_search(n: int, edges: Edges, start: int) -> dict[int, int]:
    """Return the number of bonds from ``start`` to each atom, by breadth-first search."""
    distance, queue = {start: 0}, deque([start])
    while queue:
        atom = queue.popleft()
        for other in {j if i == atom else i for i, j in edges if atom in (i, j)} - distance.keys():
            distance[other] = distance[atom] + 1
            queue.append(other)
    return distance


@given(graphs(), st.integers(1, 4))
def test_hop_distances_are_those_of_a_breadth_first_search(graph: tuple[int, Edges], max_hops: int) -> None:
    n, edges = graph
    chain = molecule([6] * n, [[i, 0, 0] for i in range(n)], bonds=bonds_of(edges))
    hops = hop_blocks(collate([chain]), max_hops)[0]
    for i in range(n):
        distance = reached_by_search(n, edges, i)
        expected = [distance.get(j, 0) if distance.get(j, 0) <= max_hops else 0 for j in range(n)]
        assert hops[i].tolist() == expected


@given(graphs())
def test_a_bond_lies_in_a_ring_exactly_when_its_side_comes_round_to_the_other_end(graph: tuple[int, Edges]) -> None:
    n, edges = graph
    for i, j in edges:
        without = [e for e in edges if e != (i, j)]
        assert side_of(adjacency(n, bonds_of(edges)), fixed=i, start=j) == reached_by_search(n, without, j).keys()


@pytest.mark.parametrize(("smiles", "count"), ROTORS.items())
def test_rotors_are_counted_as_published(smiles: str, count: tuple[int, int]) -> None:
    assert (len(rotors(from_smiles(smiles))), len(rotors(from_smiles(smiles), "heavy"))) == count


@pytest.mark.parametrize("smiles", ROTORS)
def test_rotors_are_those_of_the_published_pattern_even_with_kekule_bonds(smiles: str) -> None:
    mol = embedded(smiles)
    matches = mol.GetSubstructMatches(Chem.MolFromSmarts(SMARTS))
    expected = {frozenset(match) for match in matches}
    Chem.Kekulize(mol, clearAromaticFlags=True)
    assert {frozenset(rotor.axis) for rotor in rotors(from_rdkit(mol))} == expected


@pytest.mark.parametrize("smiles", ROTORS)
def test_heavy_rotors_are_those_of_the_published_pattern_without_hydrogens(smiles: str) -> None:
    mol = embedded(smiles)
    matches = Chem.RemoveHs(mol).GetSubstructMatches(Chem.MolFromSmarts(SMARTS))  # heavy atoms keep their numbers
    assert {frozenset(rotor.axis) for rotor in rotors(from_rdkit(mol), "heavy")} == {frozenset(m) for m in matches}


@pytest.mark.parametrize("smiles", ROTORS)
def test_the_smaller_side_of_a_rotor_moves(smiles: str) -> None:
    molecule = from_smiles(smiles)
    assert molecule.bonds is not None
    edges = [(i, j) for i, j in molecule.bonds.tolist()]
    for fixed, turning in (rotor.axis for rotor in rotors(molecule)):
        cut = [edge for edge in edges if set(edge) != {fixed, turning}]
        moving = reached_by_search(molecule.n_atoms, cut, turning).keys()
        staying = reached_by_search(molecule.n_atoms, cut, fixed).keys()
        assert len(moving) <= len(staying)
        (rotor,) = (r for r in rotors(molecule) if r.axis == (fixed, turning))
        assert set(np.flatnonzero(rotor.moved)) == moving - {turning}


def test_rotors_without_bonds_are_refused_and_zero_bonds_are_not() -> None:
    with pytest.raises(StructureError, match="H2O: rotors need bonds and bond orders, and this record has none; read"):
        rotors(WATER)
    argon = Molecule(
        atomic_numbers=np.array([18]),
        positions=np.zeros((1, 3)),
        bonds=np.zeros((0, 2), dtype=np.int64),
        bond_orders=np.zeros(0),
    )
    assert rotors(argon) == []
