"""Perceive the bonds of a molecule from its SMILES or from its coordinates alone."""

from typing import Any, Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Float64, Int64

from basinet.data.chemistry.conformers import GenerationError, parse_smiles, require_rdkit
from basinet.structures import Molecule
from basinet.structures.topology import Adjacency, adjacency

BONDED = 1.2
"""Atoms may be bonded up to this many times the sum of their covalent radii (Cordero et al., Dalton Trans. 2008)."""
BONDED_HYDROGEN = 1.4
"""The same limit if one is a hydrogen, which keeps its nearest neighbour only."""
STRETCHED = 1.5
"""A known bond is intact up to this many times the sum."""
TOUCHING = 1.1
"""Atoms without a bond are farther apart than this many times the sum; 1.07 Å for oxygen and hydrogen."""
MAX_NEIGHBOURS = {1: 1, 5: 4, 6: 4, 7: 4, 8: 3, 9: 1}
"""Largest number of neighbours, by atomic number."""
MAX_ITERATIONS = 100_000
"""Limit of RDKit's search for bond orders: a count, not a time, so that all processes get the same result."""
SATURATED = {6: 4, 14: 4, 7: 4, 8: 2, 16: 2}
"""Number of neighbours, by atomic number, with which all bonds of an atom outside rings are single."""

Source = Literal["SMILES", "coordinates", "coordinates, without all bond orders"]


class PerceptionError(Exception):
    """The bonds of a molecule cannot be perceived; the message is a short reason, which is counted."""


class ChemicalGraph(NamedTuple):
    """The bonds of a molecule."""

    bonds: Int64[np.ndarray, "n_bonds 2"]
    orders: Float64[np.ndarray, " n_bonds"]
    """1, 2, 3, or 1.5 for aromatic; NaN if unknown."""
    source: Source


def perceive(molecule: Molecule) -> ChemicalGraph:
    """Return the bonds of a molecule, from its SMILES if that fits the coordinates, otherwise from the coordinates.

    Bond orders from coordinates are those of RDKit (after xyz2mol, Kim and Kim, Bull. Korean Chem. Soc. 2015), with
    groups that it treats badly replaced (:func:`_substitutes`). If RDKit finds none, or leaves charges without an
    opposite one nearby, bonds are single where the valence of an end requires it, and other orders are NaN.

    Raises:
        PerceptionError: the coordinates fit no molecule with ordinary valences.
    """
    if molecule.smiles and (known := _from_smiles(molecule)) is not None:
        return known
    bonds = connectivity(molecule)
    neighbours = adjacency(molecule.n_atoms, bonds)
    orders = _orders(molecule, bonds, neighbours)
    if orders is None:
        return ChemicalGraph(
            bonds, _orders_by_valence(molecule, bonds, neighbours), "coordinates, without all bond orders"
        )
    return ChemicalGraph(bonds, orders, "coordinates")


def connectivity(molecule: Molecule) -> Int64[np.ndarray, "n_bonds 2"]:
    """Return the pairs of atoms near enough to be bonded, nearest first until an atom has its largest number.

    Raises:
        PerceptionError: two atoms touch that cannot have another bond, or a hydrogen has no neighbour.
    """
    numbers = molecule.atomic_numbers
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    relative = _relative_distance(molecule, first, second)
    limit = np.where((numbers[first] == 1) | (numbers[second] == 1), BONDED_HYDROGEN, BONDED)
    near = np.flatnonzero(relative < limit)
    free = [MAX_NEIGHBOURS.get(z, molecule.n_atoms) for z in numbers.tolist()]
    found: list[tuple[int, int]] = []
    for pair in near[np.argsort(relative[near], kind="stable")].tolist():
        i, j = int(first[pair]), int(second[pair])
        if free[i] and free[j]:
            free[i], free[j] = free[i] - 1, free[j] - 1
            found.append((i, j))
        elif relative[pair] < TOUCHING:
            full = i if not free[i] else j
            raise PerceptionError(f"{chemical_symbols[numbers[full]]} with too many neighbours")
    if molecule.n_atoms > 1 and any(free[h] for h in np.flatnonzero(numbers == 1).tolist()):
        raise PerceptionError("H without a bond")
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def agrees(graph: ChemicalGraph, molecule: Molecule) -> bool:
    """Return whether a conformation has the bonds of another one of the same atoms."""
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    relative = _relative_distance(molecule, first, second)
    bonded = np.zeros((molecule.n_atoms, molecule.n_atoms), dtype=bool)
    bonded[graph.bonds[:, 0], graph.bonds[:, 1]] = True
    bonded = (bonded | bonded.T)[first, second]
    return bool((relative[bonded] < STRETCHED).all() and (relative[~bonded] > TOUCHING).all())


def _relative_distance(
    molecule: Molecule, first: Int64[np.ndarray, " n"], second: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    radius = covalent_radii[molecule.atomic_numbers]
    distance = np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    return distance / (radius[first] + radius[second])


def _orders(
    molecule: Molecule, bonds: Int64[np.ndarray, "n_bonds 2"], neighbours: Adjacency
) -> Float64[np.ndarray, " n_bonds"] | None:
    """Return the bond orders that RDKit finds, or ``None``."""
    chem = require_rdkit()
    from rdkit import rdBase
    from rdkit.Chem import rdDetermineBonds

    numbers, added_charge = _substitutes(molecule, neighbours)
    mol = _bare(numbers, bonds)
    mol.AddConformer(chem.Conformer(molecule.n_atoms))
    with rdBase.BlockLogs():
        try:
            rdDetermineBonds.DetermineBondOrders(
                mol, charge=molecule.charge + added_charge, embedChiral=False, maxIterations=MAX_ITERATIONS
            )
            chem.SanitizeMol(mol)
        except (ValueError, RuntimeError):  # of RDKit: no valid assignment, too many iterations, too high a valence
            return None
    if _unbalanced_charge(mol) > abs(molecule.charge + added_charge):
        return None
    return np.array([mol.GetBondBetweenAtoms(i, j).GetBondTypeAsDouble() for i, j in bonds.tolist()])


def _substitutes(molecule: Molecule, neighbours: Adjacency) -> tuple[list[int], int]:
    """Return atomic numbers with which RDKit finds the right bond orders, and the charge that this adds.

    RDKit gives sulphur with two neighbours more than two bonds, fails for aromatic nitro groups, and makes carboxylates
    quinoid. So sulphur and selenium with one or two neighbours are replaced by oxygen, and nitro and carboxylate groups
    by an acyl fluoride, which has the same bonds.
    """
    numbers = molecule.atomic_numbers.tolist()
    found, charge = list(numbers), 0
    for atom, bonded in enumerate(neighbours):
        if numbers[atom] in (16, 34) and len(bonded) <= 2:
            found[atom] = 8
        ends = [other for other in bonded if numbers[other] == 8 and len(neighbours[other]) == 1]
        if numbers[atom] in (6, 7) and len(bonded) == 3 and len(ends) == 2:
            charge += numbers[atom] == 6
            found[atom], found[ends[0]] = 6, 9
    return found, charge


def _unbalanced_charge(mol: Any) -> int:
    """Return the sum of the sizes of formal charges without an opposite charge on a neighbour."""
    charge = {atom.GetIdx(): atom.GetFormalCharge() for atom in mol.GetAtoms() if atom.GetFormalCharge()}
    return sum(
        abs(value)
        for atom, value in charge.items()
        if not any(charge.get(n.GetIdx(), 0) * value < 0 for n in mol.GetAtomWithIdx(atom).GetNeighbors())
    )


def _orders_by_valence(
    molecule: Molecule, bonds: Int64[np.ndarray, "n_bonds 2"], neighbours: Adjacency
) -> Float64[np.ndarray, " n_bonds"]:
    """Return 1 for bonds with a saturated end and no end in a possible triple bond, NaN for others."""
    numbers = molecule.atomic_numbers.tolist()
    full = [len(bonded) == SATURATED.get(z, 0) for z, bonded in zip(numbers, neighbours, strict=True)]
    may_be_triple = [z in (6, 7) and len(bonded) == 2 for z, bonded in zip(numbers, neighbours, strict=True)]
    single = [(full[i] or full[j]) and not (may_be_triple[i] or may_be_triple[j]) for i, j in bonds.tolist()]
    return np.where(np.array(single, dtype=bool), 1.0, np.nan)


def _from_smiles(molecule: Molecule) -> ChemicalGraph | None:
    """Return the bonds of the SMILES on the atoms of the molecule, or ``None`` if they do not fit."""
    chem = require_rdkit()
    try:
        template = chem.AddHs(parse_smiles(molecule.smiles))
    except GenerationError:
        return None
    numbers = [atom.GetAtomicNum() for atom in template.GetAtoms()]
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in template.GetBonds()], dtype=np.int64)
    bonds = bonds.reshape(-1, 2)
    orders = np.array([b.GetBondTypeAsDouble() for b in template.GetBonds()], dtype=np.float64)
    in_order = ChemicalGraph(bonds, orders, "SMILES")
    if numbers == molecule.atomic_numbers.tolist() and agrees(in_order, molecule):
        return in_order
    if sorted(numbers) != sorted(molecule.atomic_numbers.tolist()):
        return None
    try:
        found = connectivity(molecule)
    except PerceptionError:
        return None
    if len(found) != len(bonds):
        return None
    atoms = _bare(molecule.atomic_numbers.tolist(), found).GetSubstructMatch(_bare(numbers, bonds))
    return in_order._replace(bonds=np.array(atoms, dtype=np.int64)[bonds]) if atoms else None


def _bare(numbers: list[int], bonds: Int64[np.ndarray, "n_bonds 2"]) -> Any:
    """Return an RDKit molecule with single bonds only and no implicit hydrogens."""
    chem = require_rdkit()
    mol = chem.RWMol()
    for number in numbers:
        atom = chem.Atom(number)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in bonds.tolist():
        mol.AddBond(i, j, chem.BondType.SINGLE)
    return mol
