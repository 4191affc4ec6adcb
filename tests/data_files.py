"""The same few labelled conformations as a file of each format."""

import csv
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from ase.build import molecule as g2
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import Trajectory
from ase.io import write as ase_write
from ase.io.jsonio import encode
from rdkit import Chem
from scipy.io import savemat

from basinet.units import BOHR, HARTREE, KCAL_PER_MOL

LABELLED = (
    *("extxyz", "npz", "packed-npz", "padded-npz", "ragged-npz", "mat", "traj", "db", "lmdb", "json-lmdb"),
    *("ani1", "ani1x", "ani2x", "spice", "flat-h5", "parquet"),
)
"""Formats that keep positions, energies and forces."""
FORMATS = (*LABELLED, "csv", "smiles-parquet", "sdf")
SUFFIX = {"ani1": "h5", "ani1x": "h5", "ani2x": "h5", "spice": "hdf5"}
"""Of formats that have none in their names."""

TABLE = (("CO", -1.5, "a"), ("CCO", -2.5, "b"), ("C=O", -3.5, "c"), ("N", -4.5, "d"))
"""SMILES, energy and a text."""


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
    path = directory / f"frames.{SUFFIX.get(kind, kind.rpartition('-')[2])}"
    match kind:
        case "extxyz":
            ase_write(path, frames)
        case "npz" | "packed-npz" | "padded-npz" | "ragged-npz" | "mat":
            return path, _write_arrays(path, kind, frames)
        case "traj":
            with Trajectory(path, "w") as file:
                for atoms in frames:
                    file.write(atoms)
        case "db":
            with connect(path) as database:
                for atoms in frames:
                    database.write(atoms, data={"extra": np.ones(3)}, tag_text="methanol")
        case "lmdb" | "json-lmdb":
            write_lmdb(path, [_row(atoms, as_lists=kind == "json-lmdb") for atoms in frames])
        case "parquet":
            _write_parquet(path, frames)
        case "csv":
            return _write_csv(path)
        case "smiles-parquet":
            columns = {"smiles": [row[0] for row in TABLE], "energy": [row[1] for row in TABLE]}
            pq.write_table(pa.table(columns), path)
            return path, {"energy_key": "energy", "energy_unit": "eV"}
        case "sdf":
            return _write_sdf(path, frames)
        case _:
            write_hdf5(path, kind, frames)
            options = {"flat-h5": {"energy_unit": "Ha"}, "ani1": {"forces_key": "-forces"}}
            return path, options.get(kind, {})
    return path, {}


def _write_arrays(path: Path, kind: str, frames: Sequence[Atoms]) -> dict[str, Any]:
    """Write NumPy archives and a MATLAB file, in kcal/mol."""
    R, E, F = arrays(frames)
    n, n_atoms = R.shape[:2]
    z, E, F = frames[0].numbers, E / KCAL_PER_MOL, F / KCAL_PER_MOL
    named = {"energy_key": "E", "forces_key": "F", "energy_unit": "kcal/mol"}
    if kind in ("npz", "packed-npz"):
        (np.savez if kind == "npz" else np.savez_compressed)(path, z=z, R=R, E=E, F=F)
        return {"energy_unit": "kcal/mol"}
    if kind == "ragged-npz":
        flat = {"z": np.tile(z, n), "pos": R.reshape(-1, 3), "F": F.reshape(-1, 3)}
        np.savez(path, n_atoms=np.full(n, n_atoms), E=E, **flat)
        return named
    more = {"R": np.pad(R, ((0, 0), (0, 2), (0, 0))), "F": np.pad(F, ((0, 0), (0, 2), (0, 0)))}
    more["Z"] = np.tile(np.pad(z, (0, 2)), (n, 1)).astype(np.float32)
    if kind == "padded-npz":
        np.savez(path, E=E, **more)
    else:
        savemat(path, {"E": E[None], **more})
    return named


def _row(atoms: Atoms, as_lists: bool) -> dict[str, Any]:
    """Return a row as ASE-LMDB keeps it, with arrays as lists (older) or as ASE's JSON (newer)."""
    row = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": np.zeros((3, 3)), "pbc": [False] * 3}
    row |= {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "user": "me", "ctime": 1.0}
    row |= {"key_value_pairs": {"tag_text": "methanol"}, "data": {"charge": 0, "spin": 1}}
    return {k: v.tolist() if as_lists and isinstance(v, np.ndarray) else v for k, v in row.items()}


def write_lmdb(path: Path, rows: Sequence[Any], **about: Any) -> None:
    """Write an ASE-LMDB; ``about`` are records beside the rows."""
    about = {"nextid": len(rows) + 1} | about
    records = {**{str(i): row for i, row in enumerate(rows, start=1)}, **about}
    environment = lmdb.open(str(path), subdir=False, map_size=2**28)
    with environment.begin(write=True) as transaction:
        for key, record in records.items():
            if record is not None:
                value = record if isinstance(record, bytes) else zlib.compress(encode(record).encode())
                transaction.put(key.encode(), value)
    environment.close()


def _write_parquet(path: Path, frames: Sequence[Atoms]) -> None:
    columns = {
        "atomic_numbers": [atoms.numbers.tolist() for atoms in frames],
        "positions": [atoms.positions.tolist() for atoms in frames],
        "energy": [atoms.get_potential_energy() for atoms in frames],
        "forces": [atoms.get_forces().ravel().tolist() for atoms in frames],
        "method": ["a text"] * len(frames),
    }
    pq.write_table(pa.table(columns), path)


def arrays(frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, energies and forces of all frames, Å and eV."""
    energies = [atoms.get_potential_energy() for atoms in frames]
    return np.array([a.positions for a in frames]), np.array(energies), np.array([a.get_forces() for a in frames])


def write_hdf5(path: Path, kind: str, frames: Sequence[Atoms]) -> None:
    """Write the layout of ANI-1 (with gradients, as COMP6), ANI-1x, ANI-2x or SPICE, or arrays without a group."""
    R, E, F = arrays(frames)
    with h5py.File(path, "w") as file:
        if kind == "flat-h5":
            _fill(file, z=frames[0].numbers, R=R, E=E / HARTREE, F=F / HARTREE)
        elif kind == "ani1":
            group = file.create_group("gdb11_s02/gdb11_s02-0")
            symbols = np.array(frames[0].get_chemical_symbols(), dtype="S1")
            _fill(group, species=symbols, coordinates=R, energies=E / HARTREE, forces=-F / HARTREE)
            _fill(group, smiles=np.array(list("[H]OC"), dtype="S1"))
        elif kind == "ani1x":
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
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("SMILES", "energy", "note"), *TABLE])
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
