"""The same few labelled conformations as a file of each format."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.build import molecule as g2
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import Trajectory
from ase.io import write as ase_write
from rdkit import Chem

from basinet.units import BOHR, HARTREE, KCAL_PER_MOL

FORMATS = ("extxyz", "npz", "traj", "db", "ani1x", "ani2x", "spice", "csv", "sdf")


def conformations(n: int = 6, seed: int = 0) -> list[Atoms]:
    """Return displaced methanols with energies (eV) and forces (eV/Å) that are just numbers."""
    generator = np.random.default_rng(seed)
    frames: list[Atoms] = []
    for i in range(n):
        atoms = g2("CH3OH")
        atoms.positions += generator.normal(0, 0.03, (6, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-3000.0 - i / 7, forces=generator.normal(0, 1, (6, 3)))
        frames.append(atoms)
    return frames


def write_file(directory: Path, kind: str, frames: Sequence[Atoms]) -> tuple[Path, dict[str, Any]]:
    """Write frames of one molecule in a format, and return the file and the arguments to read its labels with."""
    path = directory / f"frames.{ {'ani1x': 'h5', 'ani2x': 'h5', 'spice': 'hdf5'}.get(kind, kind) }"
    match kind:
        case "extxyz":
            ase_write(path, frames)
        case "npz":
            R, E, F = arrays(frames)
            np.savez(path, z=frames[0].numbers, R=R, E=E / KCAL_PER_MOL, F=F / KCAL_PER_MOL)
            return path, {"energy_unit": "kcal/mol"}
        case "traj":
            with Trajectory(path, "w") as file:
                for atoms in frames:
                    file.write(atoms)
        case "db":
            with connect(path) as database:
                for atoms in frames:
                    database.write(atoms, data={"extra": np.ones(3)}, tag_text="methanol")
        case "csv":
            return _write_csv(path)
        case "sdf":
            return _write_sdf(path, frames)
        case _:
            write_hdf5(path, kind, frames)
    return path, {}


def arrays(frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, energies and forces of all frames, Å and eV."""
    energies = [atoms.get_potential_energy() for atoms in frames]
    return np.array([a.positions for a in frames]), np.array(energies), np.array([a.get_forces() for a in frames])


def write_hdf5(path: Path, kind: str, frames: Sequence[Atoms]) -> None:
    """Write the layout of ANI-1x, ANI-2x or SPICE."""
    R, E, F = arrays(frames)
    with h5py.File(path, "w") as file:
        if kind == "ani1x":
            _fill(file.create_group("C1H4O1"), atomic_numbers=frames[0].numbers.astype(np.uint8), coordinates=R)
            _fill(file["C1H4O1"], **{"wb97x_dz.energy": E / HARTREE, "wb97x_dz.forces": F / HARTREE})
        elif kind == "ani2x":
            species = np.tile(frames[0].numbers, (len(frames), 1))
            _fill(file.create_group("006"), species=species, coordinates=R, energies=E / HARTREE, forces=F / HARTREE)
        else:
            group = file.create_group("methanol")
            _fill(group, atomic_numbers=frames[0].numbers.astype(np.int16), conformations=R / BOHR)
            _fill(group, dft_total_energy=E / HARTREE, dft_total_gradient=-F * BOHR / HARTREE)
            smiles = "[C:1]([O:2][H:4])([H:3])([H:5])[H:6]"
            group.create_dataset("smiles", data=[smiles], dtype=h5py.string_dtype())


def _fill(group: Any, **datasets: np.ndarray) -> None:
    for name, values in datasets.items():
        group.create_dataset(name, data=values)


def _write_csv(path: Path) -> tuple[Path, dict[str, Any]]:
    rows = [("CO", -1.5, "a"), ("CCO", -2.5, "b"), ("C=O", -3.5, "c"), ("N", -4.5, "d")]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("SMILES", "energy", "note"), *rows])
    return path, {"energy_key": "energy", "energy_unit": "eV"}


def _write_sdf(path: Path, frames: Sequence[Atoms]) -> tuple[Path, dict[str, Any]]:
    mol = Chem.MolFromSmiles("[C:1]([O:2][H:4])([H:3])([H:5])[H:6]", sanitize=False)
    Chem.SanitizeMol(mol)
    order = [1, 2, 4, 3, 5, 6]
    with Chem.SDWriter(str(path)) as file:
        for atoms in frames:
            record = Chem.Mol(mol)
            conformer = Chem.Conformer(len(order))
            for i, number in enumerate(order):
                conformer.SetAtomPosition(i, atoms.positions[number - 1].tolist())
            record.AddConformer(conformer)
            for atom in record.GetAtoms():
                atom.SetAtomMapNum(0)
            record.SetProp("energy", repr(atoms.get_potential_energy()))
            file.write(record)
    return path, {"energy_key": "energy", "energy_unit": "eV"}
