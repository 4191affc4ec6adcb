"""Extended XYZ: frames read one by one with their labels, and written with predictions.

ASE parses each frame. The file is cut into frames here and not by ASE, because ASE stops at the first blank line
without a word, and reads a file to its end before it gives the first frame.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import read_xyz, write_xyz

from basinet.data.columns import PropertyColumn, read_properties
from basinet.data.files import replacing
from basinet.data.report import ReadReport
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor, length_factor

ENERGY_KEYS = ("REF_energy", "energy")
"""Where an energy is looked for, in this order; ASE moves ``energy`` of a comment line into its calculator."""
FORCES_KEYS = ("REF_forces", "forces")
CHARGE_KEY = "charge"
SMILES_KEY = "smiles"


def read_extxyz(
    path: Path,
    report: ReadReport,
    *,
    is_equilibrium: bool,
    energy_key: str | None,
    forces_key: str | None,
    columns: Sequence[PropertyColumn] = (),
) -> Iterator[Molecule]:
    """Read molecules frame by frame; ``name`` is ``file.xyz:17``, numbered from 0 as ``ase.io.read(file, 17)`` does.

    Raises:
        StructureError: a frame is damaged, periodic, or has its labels under other keys than the frames before.
    """
    for frame, text in enumerate(_frames(path)):
        name = f"{path.name}:{frame}"
        atoms = _parse(text, name)
        if atoms.pbc.any():
            raise StructureError(
                f'{name}: the frame is periodic, and basinet treats molecules only; write pbc="F F F" or remove Lattice'
            )
        labels = _labels(atoms, name, report, energy_key, forces_key)
        if columns:
            numbers = {key: value for key, value in _per_molecule(atoms).items() if np.ndim(value) == 0}
            labels |= read_properties(numbers, columns, name, report)
        yield Molecule(
            atomic_numbers=atoms.numbers.astype(np.int64),
            positions=atoms.positions * length_factor(report.length_unit),
            charge=_charge(atoms, name),
            labels=labels,
            is_equilibrium=is_equilibrium,
            smiles=str(_values(atoms.info).get(SMILES_KEY, "")),
            name=name,
        )


def write_extxyz(
    path: str | os.PathLike[str],
    frames: Iterable[tuple[Molecule, Mapping[str, Any]]],
    *,
    label_prefix: str = "REF_",
) -> int:
    """Write molecules with results, one by one, and return how many; the file appears when all are written.

    Args:
        path: File to write; replaced if it exists.
        frames: Each molecule with its results by key: numbers go to the comment line, rows per atom to columns.
            ``energy`` and ``forces`` (eV, eV/Å) are what ASE's calculator gives back on reading.
        label_prefix: Put before the names of the molecule's own labels, to keep them apart from the results.
    """
    count = 0
    with replacing(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for molecule, results in frames:
            own = {f"{label_prefix}{key}": value for key, value in molecule.labels.items()}
            if clash := sorted(set(own) & set(results)):
                raise ValueError(
                    f"{molecule.name or f'molecule {count}'}: {', '.join(clash)} would be written twice, as label and "
                    "as result; choose another label_prefix"
                )
            write_xyz(file, [_to_atoms(molecule, {**own, **results})])
            count += 1
    return count


def _frames(path: Path) -> Iterator[str]:
    """Cut a file into the texts of its frames."""
    with open(path, encoding="utf-8") as file:
        frame = 0
        while header := _next_line(file, path, frame):
            if not header.strip():
                _require_end(file, path, frame)
                return
            n_atoms = _atom_count(header, f"{path.name}:{frame}")
            lines = [_next_line(file, path, frame) for _ in range(n_atoms + 1)]
            missing = sum(not line for line in lines[1:])
            if missing or not lines[0]:
                raise StructureError(
                    f"{path.name}:{frame}: the file ends inside the frame, {missing} of {n_atoms} atoms are missing; "
                    "it is truncated"
                )
            yield "".join([header, *lines])
            frame += 1


def _atom_count(header: str, name: str) -> int:
    if header.strip().isdecimal():
        return int(header)
    raise StructureError(
        f"{name}: expected a number of atoms, got {header.strip()[:40]!r}; "
        "the frame before has more rows than it says, or this is no xyz file"
    )


def _next_line(file: TextIO, path: Path, frame: int) -> str:
    try:
        return file.readline()
    except UnicodeDecodeError:
        raise StructureError(f"{path.name}:{frame}: not text; is this an xyz file?") from None


def _require_end(file: TextIO, path: Path, frame: int) -> None:
    """Blank lines may end a file; anything after them would otherwise be lost without a word."""
    while line := _next_line(file, path, frame):
        if line.strip():
            raise StructureError(f"{path.name}:{frame}: a blank line stands where a frame should begin; remove it")


def _parse(text: str, name: str) -> Atoms:
    try:
        return next(read_xyz(StringIO(text), 0))
    except (ValueError, TypeError, KeyError, IndexError, OSError, RuntimeError) as error:
        cut = "" if text.endswith("\n") else "; its last line is cut short: the file is truncated"
        raise StructureError(f"{name}: cannot be read as extended xyz ({type(error).__name__}: {error}){cut}") from None


def _charge(atoms: Atoms, name: str) -> int:
    charge = _values(atoms.info).get(CHARGE_KEY, 0)
    if not isinstance(charge, int | float | np.integer | np.floating) or charge != round(charge):
        raise StructureError(f"{name}: {CHARGE_KEY} must be a whole number (e), got {charge!r}")
    return int(charge)


def _labels(
    atoms: Atoms, name: str, report: ReadReport, energy_key: str | None, forces_key: str | None
) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results
    labels: dict[str, Any] = {}
    per_molecule, per_atom = _per_molecule(atoms), {**atoms.arrays, **results}
    energy = _find(per_molecule, ENERGY_KEYS, energy_key, name, report.energy_keys)
    if energy is not None:
        labels["energy"] = _number(energy, name) * energy_factor(report.energy_unit)
    forces = _find(per_atom, FORCES_KEYS, forces_key, name, report.forces_keys)
    if forces is not None:
        unit = energy_factor(report.energy_unit) / length_factor(report.length_unit)
        labels["forces"] = _rows(forces, name) * unit
    return labels


def _per_molecule(atoms: Atoms) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results
    return _values({**atoms.info, **results})


def _values(info: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the bare words of a comment such as "lowest energy found", which ASE reads as ``energy=True``."""
    return {key: value for key, value in info.items() if not isinstance(value, bool | np.bool_)}


def _find(values: Mapping[str, Any], keys: tuple[str, ...], wanted: str | None, name: str, used: Any) -> Any:
    """Return the value under the key asked for, or under the first of ``keys`` that is there; count the key."""
    if wanted is not None and wanted not in values:
        there = ", ".join(sorted(set(values) - {"numbers", "positions"})) or "no labels"
        raise StructureError(f"{name}: has no {wanted!r}; it has {there}")
    key = wanted or next((key for key in keys if key in values), None)
    if key is None:
        return None
    if others := sorted(set(used) - {key}):
        raise StructureError(
            f"{name}: {key!r} is used here, but {others[0]!r} in the frames before, so they may be of different levels "
            f"of theory; name the one to use (energy_key or forces_key)"
        )
    used[key] += 1
    return values[key]


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise StructureError(f"{name}: the energy must be one number, got {value!r}") from None


def _rows(value: Any, name: str) -> np.ndarray:
    rows = np.asarray(value)
    if rows.dtype.kind not in "fiu":
        raise StructureError(f"{name}: forces must be three numbers an atom, got {rows.dtype} values")
    return rows.astype(np.float64)


def _to_atoms(molecule: Molecule, values: Mapping[str, Any]) -> Atoms:
    atoms = Atoms(numbers=molecule.atomic_numbers, positions=molecule.positions)
    if molecule.charge:
        atoms.info[CHARGE_KEY] = molecule.charge
    if molecule.smiles:
        atoms.info[SMILES_KEY] = molecule.smiles
    known = {key: values[key] for key in ("energy", "forces") if key in values}
    if known:
        atoms.calc = SinglePointCalculator(atoms, **known)
    for key in sorted(set(values) - set(known)):
        if np.ndim(values[key]):
            atoms.new_array(key, np.asarray(values[key]))
        else:
            atoms.info[key] = values[key]
    return atoms
