"""Parquet files, some rows at a time: a table with SMILES like a CSV, or one with the atoms of a molecule a row."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from basinet.data.files.ase_atoms import read_atoms
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, array_of
from basinet.data.files.smiles_table import SMILES_COLUMN, Cells, column_places, read_smiles_rows, wanted_columns
from basinet.structures import Molecule, StructureError
from basinet.structures.ase_labels import ENERGY_KEYS, FORCES_KEYS

ROWS_AT_ONCE = 1024
BUFFER = 2**20
"""Bytes of a column read at once, where otherwise a whole group of rows would be."""
ELEMENTS = ("atomic_numbers", "numbers", "z")
POSITIONS = ("positions", "pos", "coordinates")
ABOUT = ("charge", "smiles")
"""Further columns that are looked at."""


def read_parquet(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read a molecule a row, from lists of elements and positions or from a SMILES.

    Raises:
        StructureError: this is no parquet file, it is damaged, or a row is no molecule.
        ImportError: pyarrow is not installed.
    """
    with _open(path) as file:
        names = file.schema_arrow.names
    if any(n in names for n in ELEMENTS) and any(n in names for n in POSITIONS):
        return _read_atoms(path, report, reading)
    return read_smiles_rows(_cells(path, wanted_columns(path, reading)), path, report, reading)


def _cells(path: Path, wanted: Sequence[str]) -> Iterator[Cells]:
    """Yield the SMILES and the wanted cells of each row; an empty cell is NaN."""
    with _open(path) as file:
        header = list(map(str, file.schema_arrow.names))
        places = column_places(path, header, wanted)
        for cells in _rows(file, [header[place] for place in places.values()]):
            found = {name: cells[header[place]] for name, place in places.items()}
            nan = {name: float("nan") for name, value in found.items() if value is None}
            yield found | nan | ({SMILES_COLUMN: ""} if SMILES_COLUMN in nan else {})


def _read_atoms(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read rows with atoms in lists; ``name`` is ``file.parquet:17``, the rows numbered from 0."""
    with _open(path) as file:
        header = list(map(str, file.schema_arrow.names))
        elements, positions = (next(n for n in known if n in header) for known in (ELEMENTS, POSITIONS))
        wanted = {*ABOUT, *(c.key for c in reading.columns)}
        wanted |= {reading.energy_key} if reading.energy_key else set(ENERGY_KEYS)
        wanted |= {array_of(reading.forces_key)} if reading.forces_key else set(FORCES_KEYS)
        read = [name for name in header if name in {elements, positions, *wanted}]
        unread = dict.fromkeys(set(header) - set(read), "not read")
        for row, cells in enumerate(_rows(file, read)):
            name = f"{path.name}:{row}"
            atoms = _atoms(cells, elements, positions, name)
            atoms.info |= unread
            yield from read_atoms(atoms, name, report, reading)


def _atoms(cells: Mapping[str, Any], elements: str, positions: str, name: str) -> Atoms:
    try:
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
    except Exception as error:  # what ASE meets in a damaged row can raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StructureError(f"{name}: the row is no molecule ({reason})") from None


def _rows(file: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    n_rows = 0
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(dict.fromkeys(columns)), use_threads=False):
        rows = batch.to_pylist()
        n_rows += len(rows)
        yield from rows
    if n_rows != file.metadata.num_rows:
        raise ValueError(f"it gave {n_rows} of its {file.metadata.num_rows} rows")


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ImportError('reading parquet files needs pyarrow: pip install "basinet[parquet]"') from None
    try:
        with ParquetFile(path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except (StructureError, GeneratorExit):
        raise
    except Exception as error:  # what pyarrow meets in a damaged file can raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StructureError(f"{path}: cannot be read as parquet ({reason}); is it truncated?") from None
