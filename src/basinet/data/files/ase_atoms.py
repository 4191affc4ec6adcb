"""Convert frames of ASE to molecules: shared by extended XYZ, trajectories, databases, LMDB and parquet."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, array_of, number_of, read_properties, sign_of_forces, valid
from basinet.structures import Molecule, StructureError
from basinet.structures.ase_labels import ENERGY_KEYS, FORCES_KEYS, as_forces, charge_of, plain_values, smiles_of
from basinet.units import energy_factor, length_factor


def read_atoms(atoms: Atoms, name: str, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Yield the molecule of a frame; labels are looked for in ``info``, ``arrays`` and the results of the calculator.

    Raises:
        StructureError: the frame is periodic, or has its labels under other keys than the frames before.
    """
    if atoms.pbc.any():
        raise StructureError(
            f'{name}: the frame is periodic, and basinet treats molecules only; write pbc="F F F" or remove Lattice'
        )
    labels = _labels(atoms, name, report, reading)
    if reading.columns:
        numbers = {key: value for key, value in _per_molecule(atoms).items() if np.ndim(value) == 0}
        labels |= read_properties(numbers, reading.columns, name, report)
    yield from valid(
        report,
        atomic_numbers=atoms.numbers.astype(np.int64),
        positions=atoms.positions * length_factor(report.length_unit),
        charge=charge_of(atoms, name),
        labels=labels,
        is_equilibrium=reading.is_equilibrium,
        smiles=smiles_of(atoms),
        name=name,
    )


def _labels(atoms: Atoms, name: str, report: ReadReport, reading: Reading) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results
    labels: dict[str, Any] = {}
    per_molecule, per_atom = _per_molecule(atoms), {**atoms.arrays, **results}
    energy = _find(per_molecule, ENERGY_KEYS, reading.energy_key, name, report.energy_keys)
    if energy is not None:
        labels["energy"] = number_of(energy, "energy", name) * energy_factor(report.energy_unit)
    forces = _find(per_atom, FORCES_KEYS, reading.forces_key, name, report.forces_keys)
    if forces is not None:
        unit = energy_factor(report.energy_unit) / length_factor(report.length_unit)
        labels["forces"] = as_forces(forces, name) * (unit * sign_of_forces(reading.forces_key or ""))
    return labels


def _per_molecule(atoms: Atoms) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results
    return plain_values({**atoms.info, **results})


def _find(values: Mapping[str, Any], keys: tuple[str, ...], wanted: str | None, name: str, used: Any) -> Any:
    """Return the value under the key asked for, or under the first of ``keys`` that is there; count the key."""
    if wanted is not None and array_of(wanted) not in values:
        there = ", ".join(sorted(set(values) - {"numbers", "positions"})) or "no labels"
        raise StructureError(f"{name}: has no {array_of(wanted)!r}; it has {there}")
    key = wanted or next((key for key in keys if key in values), None)
    if key is None:
        return None
    if others := sorted(set(used) - {key}):
        raise StructureError(
            f"{name}: {key!r} is used here, but {others[0]!r} in the frames before, so they may be of different levels "
            f"of theory; name the one to use (energy_key or forces_key)"
        )
    used[key] += 1
    return values[array_of(key)]
