"""Find rings and rotors in a bond graph, with the atoms each rotor moves."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from basinet.errors import StructureError
from basinet.structures.molecule import Molecule

Adjacency = list[list[int]]
WhichRotors = Literal["all", "heavy"]
"""all: with hydrogens explicit; heavy: those of the molecule without its hydrogens."""


class Rotor(NamedTuple):
    """A rotatable bond and the side of the molecule that turns with its second atom."""

    axis: tuple[int, int]
    """(fixed atom, atom that moves with the turning side); the rotation axis points from the first to the second."""
    moved: Bool[np.ndarray, " n_atoms"]
    """True for the atoms that turn: the smaller side, without the two atoms of the axis that stay on it anyway."""


def adjacency(n_atoms: int, bonds: Int64[np.ndarray, "n_bonds 2"]) -> Adjacency:
    """Return the bonded neighbours of each atom, in bond order."""
    neighbours: Adjacency = [[] for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return neighbours


def side_of(neighbours: Adjacency, fixed: int, start: int) -> set[int]:
    """Return the atoms reached from ``start`` without crossing the bond to ``fixed``.

    The bond lies in a ring exactly when ``fixed`` is among them.
    """
    seen = {start}
    stack = [start]
    while stack:
        atom = stack.pop()
        for other in neighbours[atom]:
            if other in seen or (atom == start and other == fixed):
                continue
            seen.add(other)
            stack.append(other)
    return seen


def rotors(molecule: Molecule, which: WhichRotors = "all") -> list[Rotor]:
    """Return the rotatable bonds of a molecule with explicit hydrogens.

    A bond is a rotor if it is single, lies in no ring, neither end has only one neighbour and neither end takes part
    in a triple bond: the SMARTS ``[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]`` of Frad (Feng et al., ICML 2023), as a rule on the
    graph. The smaller side moves (ties: the side of the second atom), which leaves the internal geometry the same and
    displaces the fewest atoms. ``heavy`` are the rotors of the molecule without its hydrogens: both ends have a further
    neighbour that is no hydrogen, so methyl, hydroxyl and amino groups are none.

    Raises:
        StructureError: the molecule has no bonds or bond orders on record.
    """
    if molecule.bonds is None or molecule.bond_orders is None:
        raise StructureError(
            f"{molecule.name or 'molecule'}: rotors need bonds and bond orders, and this record has none; "
            "read it from an SDF or generate it from a SMILES, or use a noise that needs no bonds (coordinate)"
        )
    found = _find_rotors(molecule.n_atoms, molecule.bonds, molecule.bond_orders)
    if which == "all":
        return found
    is_heavy = molecule.atomic_numbers > 1
    neighbours = adjacency(molecule.n_atoms, molecule.bonds)
    return [r for r in found if all(is_heavy[a] and is_heavy[neighbours[a]].sum() > 1 for a in r.axis)]


class RotorTable(NamedTuple):
    """The rotors of one molecule as two arrays, for stores and batches."""

    rotors: Int64[np.ndarray, "n_rotors 3"]
    """(fixed atom, atom on the side that turns, number of atoms that move)."""
    moved: Int64[np.ndarray, " n_moved"]
    """The atoms that move, rotor after rotor."""


def rotor_table(
    n_atoms: int, bonds: Int64[np.ndarray, "n_bonds 2"], bond_orders: Float64[np.ndarray, " n_bonds"] | None
) -> RotorTable:
    """Return the rotors of :func:`rotors` as arrays; without bond orders there are none to know of."""
    found = [] if bond_orders is None else _find_rotors(n_atoms, bonds, bond_orders)
    rows = [(*rotor.axis, int(rotor.moved.sum())) for rotor in found]
    moved = [np.flatnonzero(rotor.moved) for rotor in found]
    return RotorTable(
        np.array(rows, dtype=np.int64).reshape(-1, 3),
        np.concatenate([np.zeros(0, dtype=np.int64), *moved]),
    )


def _find_rotors(
    n_atoms: int, bonds: Int64[np.ndarray, "n_bonds 2"], bond_orders: Float64[np.ndarray, " n_bonds"]
) -> list[Rotor]:
    neighbours = adjacency(n_atoms, bonds)
    in_triple = _atoms_in_triple_bonds(bonds, bond_orders)
    found: list[Rotor] = []
    for (i, j), order in zip(bonds.tolist(), bond_orders.tolist(), strict=True):
        if order != 1.0 or min(len(neighbours[i]), len(neighbours[j])) < 2 or i in in_triple or j in in_triple:
            continue
        side = side_of(neighbours, fixed=i, start=j)
        if i in side:
            continue
        found.append(_smaller_side(i, j, side, neighbours, n_atoms))
    return found


def _smaller_side(i: int, j: int, side: set[int], neighbours: Adjacency, n_atoms: int) -> Rotor:
    other = side_of(neighbours, fixed=j, start=i)
    axis = (i, j)
    if len(other) < len(side):
        axis, side = (j, i), other
    moved = np.zeros(n_atoms, dtype=bool)
    moved[list(side - {axis[1]})] = True
    return Rotor(axis, moved)


def _atoms_in_triple_bonds(bonds: Int64[np.ndarray, "n_bonds 2"], orders: Float64[np.ndarray, " n_bonds"]) -> set[int]:
    return set(bonds[orders == 3.0].ravel().tolist())
