"""Convert frames of ASE to molecules: shared by extended XYZ, trajectories, databases, LMDB and parquet."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from basinet.data.files.fields import note_unused, refuse_periodic, spin_refusal, take_units
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, array_of, number_of, read_properties, sign_of_forces, valid
from basinet.structures import Molecule, StructureError
from basinet.structures.ase_labels import (
    ENERGY_KEYS,
    FORCES_KEYS,
    SMILES_KEY,
    as_forces,
    charge_of,
    plain_values,
    smiles_of,
)
from basinet.units import energy_factor, length_factor

OF_ATOMS = frozenset({"numbers", "positions", "initial_charges", "tags"})
"""Arrays of ASE's atoms that are read, or say nothing about a molecule."""


def read_atoms(atoms: Atoms, name: str, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Yield the molecule of a frame; labels are looked for in ``info``, ``arrays`` and the results of the calculator.

    Fields that are not used are counted in the report.

    Raises:
        StructureError: the frame is periodic, has its labels under other keys than the frames before, or states a
            charge or unit that is not known or contradicts another.
    """
    if atoms.pbc.any():
        raise StructureError(
            f'{name}: the frame is periodic, and basinet treats molecules only; write pbc="F F F" or remove Lattice'
        )
    others = _other_fields(atoms)
    refuse_periodic(others, name)
    take_units(others, name, report, reading)
    labels, used = _labels(atoms, name, report, reading)
    if reading.columns:
        numbers = {key: value for key, value in _per_molecule(atoms).items() if np.ndim(value) == 0}
        labels |= read_properties(numbers, reading.columns, name, report)
        used |= {column.key for column in reading.columns}
    numbers, smiles, charge = atoms.numbers.astype(np.int64), smiles_of(atoms), charge_of(atoms, name)
    note_unused(others, numbers, report, used | {SMILES_KEY})
    yield from valid(
        report,
        refusal=spin_refusal(others, numbers, charge, name),
        atomic_numbers=numbers,
        positions=atoms.positions * length_factor(report.length_unit),
        charge=charge,
        labels=labels,
        is_equilibrium=reading.is_equilibrium,
        smiles=smiles,
        name=name,
    )


def _other_fields(atoms: Atoms) -> dict[str, Any]:
    """Return the fields of a frame without elements, positions, charges of atoms and results of no use."""
    arrays = {key: value for key, value in atoms.arrays.items() if key not in OF_ATOMS}
    return {**arrays, **_per_molecule(atoms), **({"constraints": True} if atoms.constraints else {})}


def _labels(atoms: Atoms, name: str, report: ReadReport, reading: Reading) -> tuple[dict[str, Any], set[str]]:
    """Return the labels, and the names of the fields that they are from."""
    results = {} if atoms.calc is None else atoms.calc.results
    labels: dict[str, Any] = {}
    per_molecule, per_atom = _per_molecule(atoms), {**atoms.arrays, **results}
    per_all = {**per_atom, **per_molecule}
    energy = _find(per_molecule, ENERGY_KEYS, reading.energy_key, name, report.energy_keys)
    if energy is not None:
        labels["energy"] = number_of(energy, "energy", name) * energy_factor(report.energy_unit)
    forces = _find(per_atom, FORCES_KEYS, reading.forces_key, name, report.forces_keys)
    if forces is not None:
        unit = energy_factor(report.energy_unit) / length_factor(report.length_unit)
        labels["forces"] = as_forces(forces, name) * (unit * sign_of_forces(reading.forces_key or ""))
    keys = (reading.energy_key, ENERGY_KEYS), (reading.forces_key, FORCES_KEYS)
    used = {array_of(wanted) if wanted else next((k for k in known if k in per_all), "") for wanted, known in keys}
    return labels, used


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
