"""Read HDF5 files in the layouts of ANI, COMP6, SPICE and basinet, recognised by the names of their arrays.

==========  ================  ==================  ==========================  ===========================
layout      elements          positions           energies                    forces
==========  ================  ==================  ==========================  ===========================
ANI-1x      atomic_numbers    coordinates, Å      wb97x_dz.energy, Ha         wb97x_dz.forces, Ha/Å
ANI-2x      species           coordinates, Å      energies, Ha                forces, Ha/Å
SPICE       atomic_numbers    conformations,      dft_total_energy, Ha        minus dft_total_gradient,
                              bohr                                            Ha/bohr
trajectory  atomic_numbers    positions, Å        energy, eV                  forces, eV/Å
ANI-1,      species, as       coordinates, Å      energies, Ha                forces, Ha/Å: must be named, as they are
COMP6       symbols                                                           gradients in COMP6
as .npz     z                 R, Å                E                           F
==========  ================  ==================  ==========================  ===========================

A file is a tree of groups; those with arrays hold the conformations of a formula, a number of atoms, or a molecule.
"""

import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_numbers as number_of_symbol

from basinet.data.files.options import PropertyColumn, Reading
from basinet.data.files.report import ReadReport, array_of, damaged_file, read_properties, sign_of_forces, valid
from basinet.errors import optional_module
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor, length_factor

MAX_ATOMS = 1_000_000
"""Largest molecule; a group that claims more atoms is damaged."""
MAX_LETTERS = 10_000
"""Longest SMILES."""
MAX_DEPTH = 8
"""Deepest nesting of groups."""
NUMBERS_AT_ONCE = 2**20
"""Coordinates to read at once."""
_REFERENCE, _HEADER, _OBJECT = struct.Struct("<IQI"), struct.Struct("<4sB3xQ"), struct.Struct("<HHIQ")
MAX_HEAP = 2**28
"""Largest collection of texts, bytes; those of short texts have 4096."""
ANI_1X_LEVELS = {
    "wb97x_dz.energy": "wB97X/6-31G(d)",
    "wb97x_tz.energy": "wB97X/def2-TZVPP",
    "ccsd(t)_cbs.energy": "CCSD(T)*/CBS",
}
"""Smith et al., Sci. Data 7 (2020) 134. Other layouts were used for several levels of theory."""


class ArrayNames(NamedTuple):
    """Names and units of the arrays of a group, in one layout."""

    name: str
    elements: str
    positions: str
    energy: str
    forces: str
    energy_unit: str
    length_unit: str
    has_smiles: bool = False


SPICE = ArrayNames(
    "SPICE", "atomic_numbers", "conformations", "dft_total_energy", "dft_total_gradient", "Ha", "bohr", has_smiles=True
)
ANI_1X = ArrayNames("ANI-1x", "atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces", "Ha", "Angstrom")
ANI_2X = ArrayNames("ANI-2x", "species", "coordinates", "energies", "forces", "Ha", "Angstrom")
TRAJECTORY = ArrayNames("a trajectory of basinet", "atomic_numbers", "positions", "energy", "forces", "eV", "Angstrom")
"""Written by :mod:`basinet.md.frames`."""
ANI_1 = ArrayNames("ANI-1", "species", "coordinates", "energies", "forces", "Ha", "Angstrom")
ARRAYS = ArrayNames("npz", "z", "R", "E", "F", "", "Angstrom")
LAYOUTS = (SPICE, ANI_1X, ANI_2X, TRAJECTORY, ARRAYS)


class Hdf5Source(NamedTuple):
    """A file of a known layout, and the labels to read."""

    path: Path
    layout: ArrayNames
    energy: str | None
    forces: str | None


def read_hdf5(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read conformations group by group, some at a time; ``name`` is ``file.h5:C2H6O/17``, numbered from 0.

    The units and level of theory that the layout implies go to the report. A label that is NaN is absent. Charges of
    SPICE are those of its SMILES.

    Raises:
        ValueError: the unit of the energies is not known.
        StructureError: the file is not HDF5, has no known layout, lacks arrays, or is damaged.
        ImportError: h5py is not installed.
    """
    source = _find_layout(path, report, reading)
    layout = source.layout
    if reading.energy_unit is None and not layout.energy_unit and (source.energy or source.forces):
        raise ValueError(f'{path}: the file does not say its units; give energy_unit ("kcal/mol", "eV", "Ha")')
    report.energy_unit = reading.energy_unit or layout.energy_unit or "eV"
    report.length_unit = reading.length_unit or layout.length_unit
    return _conformations(source, report, reading)


def _find_layout(path: Path, report: ReadReport, reading: Reading) -> Hdf5Source:
    """Return the layout of a file by its first group, and what to read."""
    with _guarded(path), _open(path) as file:
        keys, symbols = _keys_of_first(path, file)
    layout = next((one for one in LAYOUTS if {one.elements, one.positions} <= keys), None)
    if layout is None:
        expected = "; ".join(f"{one.elements}, {one.positions}, {one.energy} ({one.name})" for one in LAYOUTS)
        raise StructureError(
            f"{path}: its first group has {', '.join(sorted(keys)) or 'nothing'}; expected one of: {expected}"
        )
    layout = ANI_1 if layout is ANI_2X and "species" in symbols else layout
    energy = reading.energy_key or (layout.energy if layout.energy in keys else None)
    forces = reading.forces_key or _forces_of(layout, energy, keys)
    if forces is not None and reading.forces_key is None and layout is ANI_1:
        raise StructureError(
            f"{path}: its elements are symbols, as in ANI-1 and COMP6, and COMP6 has gradients under the name "
            f"{forces!r}; say which they are: forces_key=-{forces} for gradients, forces_key={forces} for forces"
        )
    if missing := sorted({array_of(key) for key in (energy, forces) if key is not None} - keys):
        raise StructureError(f"{path}: has no {', '.join(missing)}; its first group has {', '.join(sorted(keys))}")
    if layout is ANI_1X:
        report.level_of_theory = ANI_1X_LEVELS.get(energy or "", "")
    return Hdf5Source(path, layout, energy, forces)


def _keys_of_first(path: Path, file: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the arrays of the first group with arrays, and of those that hold texts."""
    _, group = next(_groups(path, file), ("", {}))
    found = {str(name): group[name] for name in group}
    return frozenset(found), frozenset(name for name, a in found.items() if a.dtype.kind in "SO")


def _groups(path: Path, group: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the groups that have arrays, with their paths, in the order of their names; links are refused."""
    names = list(group)
    if len(names) != len(group) or depth > MAX_DEPTH:
        raise StructureError(f"{path}: gives {len(names)} groups of {len(group)}: the file is damaged")
    children: list[str] = []
    for name in names:
        if type(group.get(name, getlink=True)).__name__ != "HardLink":
            raise StructureError(f"{path}: {place}{name} is a link to another place; copy what it leads to (h5repack)")
        if group.get(name, getclass=True).__name__ == "Dataset":
            yield place.rstrip("/"), group
            return
        children.append(name)
    for name in children:
        yield from _groups(path, group[name], f"{place}{name}/", depth + 1)


def _forces_of(layout: ArrayNames, energy: str | None, keys: frozenset[str]) -> str | None:
    """Return the forces that belong to the energies: ANI-1x has three levels of theory side by side."""
    forces = layout.forces if layout is not ANI_1X or energy is None else energy.removesuffix(".energy") + ".forces"
    return forces if forces in keys else None


def _conformations(source: Hdf5Source, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    path, columns = source.path, reading.columns
    with _guarded(path), _open(path) as file:
        for name, arrays in _groups(path, file):
            place = f"{path.name}:{name}"
            group = _Group(arrays, source, place, columns)
            for first in range(0, group.n_conformations, group.n_at_once):
                block = group.read(first)
                for i in range(len(block["positions"])):
                    fields = group.fields(block, i, f"{place}/{first + i}", report, columns)
                    yield from valid(report, is_equilibrium=reading.is_equilibrium, **fields)


def _open(path: Path) -> AbstractContextManager[Any]:
    return optional_module("h5py", "hdf5", "reading HDF5 files").File(path, "r")


def _guarded(path: Path) -> AbstractContextManager[None]:
    return damaged_file(f"{path}: cannot be read as HDF5", "; is it truncated?")


class _Group:
    """The arrays of one group, checked against each other before they are read."""

    def __init__(self, group: Any, source: Hdf5Source, where: str, columns: Sequence[PropertyColumn]) -> None:
        layout = source.layout
        forces = None if source.forces is None else array_of(source.forces)
        wanted = {"positions": layout.positions, "energy": source.energy, "forces": forces}
        wanted |= {f"column {c.key}": c.key for c in columns}
        self.names = {role: key for role, key in wanted.items() if key is not None}
        needed = {layout.elements, *self.names.values(), *(("smiles",) if layout.has_smiles else ())}
        if missing := sorted(needed - set(map(str, group))):
            raise StructureError(
                f"{where}: has no {', '.join(missing)}, as the groups of {layout.name} have; it has "
                f"{', '.join(sorted(map(str, group))) or 'nothing'}"
            )
        self.arrays = {role: group[key] for role, key in self.names.items()}
        self.elements = group[layout.elements]
        self.forces_key = source.forces or ""
        has_smiles = layout.has_smiles or (layout is ANI_1 and "smiles" in group)
        self._check(where, has_symbols=layout is ANI_1)
        self.n_conformations, self.n_atoms = self.arrays["positions"].shape[:2]
        self.n_at_once = max(1, NUMBERS_AT_ONCE // (3 * self.n_atoms))
        self.smiles = _text(source.path, group["smiles"], where) if has_smiles else ""
        if layout is ANI_1:
            self.numbers = _numbers(source.path, self.elements, where)
        else:
            self.numbers = None if self.elements.ndim == 2 else self.elements[()].astype(np.int64)
        self.charge = formal_charge(self.smiles)

    def _check(self, where: str, has_symbols: bool) -> None:
        positions = self.arrays["positions"]
        n, n_atoms = (*positions.shape, 0, 0)[:2]
        if positions.ndim != 3 or positions.shape[2] != 3 or not 0 < n_atoms <= MAX_ATOMS:
            raise StructureError(f"{where}: positions are {list(positions.shape)}, expected [conformations, atoms, 3]")
        expected: dict[str, tuple[int, ...]] = {"positions": (n, n_atoms, 3), "forces": (n, n_atoms, 3)}
        found: dict[str, tuple[Any, tuple[int, ...]]]
        found = {role: (a, expected.get(role, (n,))) for role, a in self.arrays.items()}
        found["elements"] = (self.elements, (n, n_atoms) if self.elements.ndim == 2 else (n_atoms,))
        if has_symbols:
            del found["elements"]
            if self.elements.shape != (n_atoms,) or self.elements.dtype.kind not in "SO":
                what = f"{self.elements.dtype} {list(self.elements.shape)}"
                raise StructureError(f"{where}: species is {what}, expected the symbols of {n_atoms} atoms")
        for role, (array, shape) in found.items():
            if array.shape != shape or array.dtype.kind not in "fiu" or (n and not array.id.get_storage_size()):
                raise StructureError(
                    f"{where}: {self.names.get(role, role)} is {array.dtype} {list(array.shape)}, expected numbers "
                    f"{list(shape)}"
                )
        if self.elements.dtype.kind == "f":
            raise StructureError(f"{where}: the elements are {self.elements.dtype}, expected whole numbers")

    def read(self, first: int) -> dict[str, np.ndarray]:
        """Read the conformations from number ``first`` on, up to ``n_at_once``."""
        rows = slice(first, min(first + self.n_at_once, self.n_conformations))
        block = {role: array[rows] for role, array in self.arrays.items()}
        if self.numbers is None:
            block["elements"] = self.elements[rows].astype(np.int64)
        return block

    def fields(
        self,
        block: Mapping[str, np.ndarray],
        i: int,
        name: str,
        report: ReadReport,
        columns: Sequence[PropertyColumn],
    ) -> dict[str, Any]:
        """Return the fields of one molecule, in the units of the package."""
        energy, length = energy_factor(report.energy_unit), length_factor(report.length_unit)
        labels: dict[str, Any] = {}
        if "energy" in block and not np.isnan(block["energy"][i]):
            labels["energy"] = float(block["energy"][i]) * energy
            report.energy_keys[self.names["energy"]] += 1
        if "forces" in block and not np.isnan(block["forces"][i]).all():
            factor = energy / length * sign_of_forces(self.forces_key)
            labels["forces"] = block["forces"][i].astype(np.float64) * factor
            report.forces_keys[self.forces_key] += 1
        if columns:
            values = {c.key: block[f"column {c.key}"][i] for c in columns}
            labels |= read_properties(values, columns, name, report)
        return {
            "atomic_numbers": block["elements"][i] if self.numbers is None else self.numbers,
            "positions": block["positions"][i].astype(np.float64) * length,
            "charge": self.charge,
            "labels": labels,
            "smiles": self.smiles,
            "name": name,
        }


def _text(path: Path, array: Any, where: str) -> str:
    """Return a text, which ANI-1 stores with one letter a row."""
    if array.dtype.kind not in "OS" or not (array.size == 1 or (array.dtype == "S1" and array.size <= MAX_LETTERS)):
        raise StructureError(f"{where}: smiles must be one text, got {array.dtype} {list(array.shape)}")
    return "".join(_texts(path, array))


def _texts(path: Path, array: Any) -> list[str]:
    if array.dtype.kind == "O":
        _check_heap(path, array)
    found = np.asarray(array[()]).reshape(-1).tolist()
    return [text.decode() if isinstance(text, bytes) else str(text) for text in found]


def _check_heap(path: Path, array: Any) -> None:
    """Check the collection that holds the first text of an array; arrays stored in chunks are not checked.

    The library (2.0.0) walks through this heap by the sizes that its objects state, and never returns if one of them is
    damaged: size 0, or one that overflows. Format: HDF5 File Format Specification 3.0, III.E.
    """
    offset = array.id.get_offset() if array.chunks is None else None
    if offset is None:
        return
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        address = _unpack(file, offset, size, _REFERENCE)[1]
        magic, version, length = _unpack(file, address, size, _HEADER)
        if magic != b"GCOL" or version != 1 or not _HEADER.size <= length <= min(MAX_HEAP, size - address):
            raise StructureError(f"{path}: the texts of {array.name} are not where it says: the file is damaged")
        objects = file.read(length - _HEADER.size)
    place = 0
    while len(objects) - place >= _OBJECT.size:
        index, _, _, n_bytes = _OBJECT.unpack_from(objects, place)
        place += n_bytes if index == 0 else _OBJECT.size + (n_bytes + 7) // 8 * 8
        if place > len(objects) or (index == 0 and place != len(objects)):
            raise StructureError(f"{path}: the list of the texts of {array.name} is damaged")


def _unpack(file: Any, offset: int, size: int, record: struct.Struct) -> tuple[Any, ...]:
    if offset + record.size > size:
        raise StructureError(f"{file.name}: ends before the texts that it refers to; it is truncated")
    file.seek(offset)
    return record.unpack(file.read(record.size))


def _numbers(path: Path, array: Any, where: str) -> np.ndarray:
    """Return the atomic numbers of symbols."""
    symbols = _texts(path, array)
    if unknown := sorted(set(symbols) - set(number_of_symbol)):
        raise StructureError(f"{where}: species has {unknown[0][:20]!r}, expected symbols of elements")
    return np.array([number_of_symbol[symbol] for symbol in symbols], dtype=np.int64)


_CHARGE = re.compile(r"\[[^\[\]]*?(\++|-+)(\d*)(?::\d+)?\]")


def formal_charge(smiles: str) -> int:
    """Return the sum of the charges that the atoms of a SMILES have.

    >>> formal_charge("[NH3+:1][CH2:2][C:3](=[O:4])[O-:5]"), formal_charge("[Ca+2].[Na+]"), formal_charge("[Fe++]")
    (0, 3, 2)
    """
    return sum((1 if sign[0] == "+" else -1) * int(n or len(sign)) for sign, n in _CHARGE.findall(smiles))
