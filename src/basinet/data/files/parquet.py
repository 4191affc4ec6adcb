"""Read parquet files some rows at a time: a molecule a row, as a SMILES or as lists of atoms."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from basinet.data.files.ase_atoms import read_atoms
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, array_of, damaged_file
from basinet.data.files.smiles_table import SMILES_COLUMN, Cells, column_places, read_smiles_rows, wanted_columns
from basinet.data.files.table import open_parquet, parquet_rows
from basinet.structures import Molecule
from basinet.structures.ase_labels import ENERGY_KEYS, FORCES_KEYS

ELEMENTS = ("atomic_numbers", "numbers", "z")
POSITIONS = ("positions", "pos", "coordinates")
ABOUT = ("charge", "smiles")


def read_parquet(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read a molecule a row, from lists of elements and positions or from a SMILES.

    Raises:
        StructureError: the file is not parquet or is damaged, or a row is not a molecule.
        ImportError: pyarrow is not installed.
    """
    with open_parquet(path) as file:
        names = file.schema_arrow.names
    if any(n in names for n in ELEMENTS) and any(n in names for n in POSITIONS):
        return _read_atoms(path, report, reading)
    return read_smiles_rows(_cells(path, wanted_columns(path, reading)), path, report, reading)


def _cells(path: Path, wanted: Sequence[str]) -> Iterator[Cells]:
    """Yield the SMILES and the wanted cells of each row; an empty cell is NaN."""
    with open_parquet(path) as file:
        header = list(map(str, file.schema_arrow.names))
        places = column_places(path, header, wanted)
        for cells in parquet_rows(file, [header[place] for place in places.values()]):
            found = {name: cells[header[place]] for name, place in places.items()}
            nan = {name: float("nan") for name, value in found.items() if value is None}
            yield found | nan | ({SMILES_COLUMN: ""} if SMILES_COLUMN in nan else {})


def _read_atoms(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read rows with atoms in lists; ``name`` is ``file.parquet:17``, the rows numbered from 0."""
    with open_parquet(path) as file:
        header = list(map(str, file.schema_arrow.names))
        elements, positions = (next(n for n in known if n in header) for known in (ELEMENTS, POSITIONS))
        wanted = {*ABOUT, *(c.key for c in reading.columns)}
        wanted |= {reading.energy_key} if reading.energy_key else set(ENERGY_KEYS)
        wanted |= {array_of(reading.forces_key)} if reading.forces_key else set(FORCES_KEYS)
        read = [name for name in header if name in {elements, positions, *wanted}]
        unread = dict.fromkeys(set(header) - set(read), "not read")
        for row, cells in enumerate(parquet_rows(file, read)):
            name = f"{path.name}:{row}"
            atoms = _atoms(cells, elements, positions, name)
            atoms.info |= unread
            yield from read_atoms(atoms, name, report, reading)


def _atoms(cells: Mapping[str, Any], elements: str, positions: str, name: str) -> Atoms:
    with damaged_file(f"{name}: the row is not a molecule"):
        numbers = np.asarray(cells[elements])
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
            raise ValueError(f"{elements} is {numbers.dtype} {list(numbers.shape)}, expected whole numbers")
        atoms = Atoms(numbers=numbers, positions=np.asarray(cells[positions], dtype=np.float64).reshape(-1, 3))
        for key in cells.keys() - {elements, positions}:
            value = cells[key]
            if value is None or (isinstance(value, float) and np.isnan(value)):
                continue
            if isinstance(value, list):
                atoms.new_array(key, np.asarray(value).reshape(len(atoms), -1))
            else:
                atoms.info[key] = value
        return atoms
