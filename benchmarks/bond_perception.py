"""How often bonds perceived from coordinates are those on record, or those of the SMILES.

    python benchmarks/bond_perception.py DATA [--every 10]

DATA holds ``conformers/drug_like_conformers_dft.npz``, ``qm9/qm9_upto14atoms_subset.npz``,
``amons/amons_wb97x_train1000.npz`` and ``rmd17/rmd17_<molecule>.npz``. Every molecule is perceived by itself, except
trajectories, which share the bonds of their frame of lowest energy. Orders are compared outside rings, where Kekulé
structures do not differ, and not at end atoms.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import covalent_radii

from basinet.data.chemistry.chemical_graph import ChemicalGraph, PerceptionError, perceive
from basinet.data.chemistry.perception import perceive_bonds
from basinet.data.readers import Reading, load_store
from basinet.structures import Molecule
from basinet.structures.topology import adjacency, rotor_table, side_of

TRAJECTORIES = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "benzene": "c1ccccc1",
    "ethanol": "CCO",
    "malonaldehyde": "O=CCC=O",
    "naphthalene": "c1ccc2ccccc2c1",
    "salicylic": "O=C(O)c1ccccc1O",
    "toluene": "Cc1ccccc1",
    "uracil": "O=c1cc[nH]c(=O)[nH]1",
}


class Comparison:
    """Counts of what agrees, over many molecules."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.seconds = 0.0
        self.new_lengths: list[float] = []
        """Of bonds that are not on record, over the sum of the covalent radii."""

    def add(self, molecule: Molecule, bonds: np.ndarray, orders: np.ndarray) -> None:
        """Perceive a molecule and compare with the bonds it should have."""
        self.count["molecules"] += 1
        start = time.perf_counter()
        try:
            graph = perceive(molecule)
        except PerceptionError as error:
            self.count[f"failed: {error}"] += 1
            return
        finally:
            self.seconds += time.perf_counter() - start
        self.count[graph.source] += 1
        found, true = ({(min(b), max(b)) for b in rows.tolist()} for rows in (graph.bonds, bonds))
        self.count.update({"bonds right": len(found & true), "new": len(found - true), "missing": len(true - found)})
        radius = covalent_radii[molecule.atomic_numbers]
        for i, j in found - true:
            distance = np.linalg.norm(molecule.positions[i] - molecule.positions[j])
            self.new_lengths.append(float(distance / (radius[i] + radius[j])))
        if found != true:  # a bond more or less changes the orders beside it
            self.count["molecules with other bonds"] += 1
            return
        mine, theirs = (rotors(molecule.n_atoms, b, o) for b, o in ((graph.bonds, graph.orders), (bonds, orders)))
        self.count.update(
            {"rotors right": len(mine & theirs), "rotors new": len(mine - theirs), "rotors missing": len(theirs - mine)}
        )
        if graph.source == "coordinates":
            mine, theirs = (
                chain_orders(molecule.n_atoms, graph.bonds, graph.orders),
                chain_orders(molecule.n_atoms, bonds, orders),
            )
            self.count["orders right"] += sum(mine[bond] == theirs[bond] for bond in mine)
            self.count["orders wrong"] += sum(mine[bond] != theirs[bond] for bond in mine)

    def __str__(self) -> str:
        counts = ", ".join(f"{key} {value}" for key, value in self.count.items())
        if self.new_lengths:
            counts += f" (new ones {min(self.new_lengths):.2f} to {max(self.new_lengths):.2f} of the sum of the radii)"
        return f"{counts}; {1000 * self.seconds / self.count['molecules']:.2f} ms a molecule"


def rotors(n_atoms: int, bonds: np.ndarray, orders: np.ndarray) -> set[tuple[int, int]]:
    """Return the rotors as pairs of atoms."""
    return {(min(i, j), max(i, j)) for i, j, _ in rotor_table(n_atoms, bonds, orders).rotors.tolist()}


def chain_orders(n_atoms: int, bonds: np.ndarray, orders: np.ndarray) -> dict[tuple[int, int], float]:
    """Return the orders of the bonds outside rings between atoms that have other neighbours."""
    neighbours = adjacency(n_atoms, bonds)
    return {
        (min(i, j), max(i, j)): order
        for (i, j), order in zip(bonds.tolist(), orders.tolist(), strict=True)
        if min(len(neighbours[i]), len(neighbours[j])) > 1 and i not in side_of(neighbours, fixed=i, start=j)
    }


def ragged(path: Path, every: int) -> Iterator[tuple[dict[str, Any], int, Molecule]]:
    """Yield the arrays of a file with every so many of its molecules, number and molecule."""
    arrays = dict(np.load(path))
    ends = np.r_[0, np.cumsum(arrays["n_atoms"].astype(int))]
    for i in range(0, len(ends) - 1, every):
        yield (
            arrays,
            i,
            Molecule(
                atomic_numbers=arrays["z"][ends[i] : ends[i + 1]].astype(np.int64),
                positions=arrays["pos"][ends[i] : ends[i + 1]].astype(np.float64),
                charge=int(arrays["charge"][i]) if "charge" in arrays else 0,
            ),
        )


def with_smiles(molecule: Molecule, smiles: str) -> ChemicalGraph:
    """Return the bonds of a molecule whose SMILES is known."""
    return perceive(Molecule(atomic_numbers=molecule.atomic_numbers, positions=molecule.positions, smiles=smiles))


def conformers(path: Path, every: int) -> Comparison:
    """Compare with bonds on record."""
    result = Comparison()
    for arrays, i, molecule in ragged(path, every):
        first = int(arrays["n_bonds"][:i].astype(int).sum())
        rows = slice(first, first + int(arrays["n_bonds"][i]))
        result.add(molecule, arrays["bonds"][rows].astype(np.int64), arrays["bond_order"][rows].astype(np.float64))
    return result


def compounds(path: Path, every: int) -> Comparison:
    """Compare with the bonds of a SMILES."""
    result = Comparison()
    for arrays, i, molecule in ragged(path, every):
        try:
            known = with_smiles(molecule, str(arrays["smiles"][i]))
        except PerceptionError as error:
            result.count[f"failed: {error}"] += 1
            continue
        if known.source == "SMILES":
            result.add(molecule, known.bonds, known.orders)
        else:
            result.count["SMILES does not fit the coordinates"] += 1
    return result


def trajectory(path: Path, smiles: str) -> str:
    """Compare the bonds of a trajectory with those of its compound."""
    store, _ = load_store(path, Reading(energy_unit="kcal/mol"))
    start = time.perf_counter()
    perceived, report = perceive_bonds(store)
    seconds = time.perf_counter() - start
    molecule = perceived[0]
    known = with_smiles(molecule, smiles)
    assert molecule.bonds is not None and molecule.bond_orders is not None
    mine, theirs = (
        rotors(molecule.n_atoms, molecule.bonds, molecule.bond_orders),
        rotors(molecule.n_atoms, known.bonds, known.orders),
    )
    is_same = {tuple(sorted(b)) for b in molecule.bonds.tolist()} == {tuple(sorted(b)) for b in known.bonds.tolist()}
    verdict = f"bonds of {smiles}: {is_same and known.source == 'SMILES'}, rotors: {mine == theirs} ({len(mine)})"
    return f"{report}; {verdict}; {seconds:.1f} s"


def main() -> None:
    """Print one line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    print("conformers:", conformers(given.data / "conformers" / "drug_like_conformers_dft.npz", given.every))
    print("qm9:", compounds(given.data / "qm9" / "qm9_upto14atoms_subset.npz", given.every))
    print("amons:", compounds(given.data / "amons" / "amons_wb97x_train1000.npz", given.every))
    for name, smiles in TRAJECTORIES.items():
        print(f"{name}:", trajectory(given.data / "rmd17" / f"rmd17_{name}.npz", smiles))


if __name__ == "__main__":
    main()
