"""Read ASE's own files frame by frame: trajectories (``.traj``) and SQLite databases (``.db``).

Neither format needs pickle, and none is loaded: a trajectory is JSON and plain arrays (``ase.io.ulm``), a row of a
database is columns of SQL, JSON and plain arrays. Constraints and calculators are not rebuilt.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.sqlite import SQLite3Database
from ase.io import ulm

from basinet.data.files.ase_atoms import read_atoms
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, damaged_file
from basinet.structures import Molecule, StructureError

RESULTS = ("energy", "forces", "dipole")
"""Results of a calculator that a row of a database may have."""
ROWS_AT_ONCE = 256
"""Rows of a database to read at once; ASE fetches all rows of a query into memory."""


def read_traj(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read a trajectory frame by frame; ``name`` is ``file.traj:17``, numbered from 0 as ASE does.

    Raises:
        StructureError: the file is damaged, or a frame is periodic.
    """
    for frame, atoms in enumerate(_frames(path)):
        name = f"{path.name}:{frame}"
        yield from read_atoms(atoms, name, report, reading)


def read_ase_db(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read a database row by row, in the order of the ids; ``name`` is ``file.db:17`` with the id of the row.

    Labels are the results of a row, its key-value pairs, and numbers and rows per atom of its ``data``, where
    SchNetPack keeps them.

    Raises:
        StructureError: the file is not a database of ASE or is damaged, or a row is periodic.
    """
    for identity, atoms in _rows(path):
        name = f"{path.name}:{identity}"
        yield from read_atoms(atoms, name, report, reading)


def _frames(path: Path) -> Iterator[Atoms]:
    damaged = damaged_file(f"{path}: cannot be read as an ASE trajectory", "; is it truncated?")
    with damaged, closing(ulm.Reader(path)) as file:
        if file.get_tag() != "ASE-Trajectory":
            raise StructureError(f"{path}: not a trajectory of ASE, but {file.get_tag()[:20]!r}")
        header: Any = file
        for frame in range(_number_of_frames(path)):
            item = file[frame]
            header = item if "numbers" in item else header
            yield _atoms_of_frame(item, header)


def _number_of_frames(path: Path) -> int:
    """Return the number of frames, after checking the table of their offsets.

    The file has no checksum, and a damaged count would silently drop the last frames.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(24)
        _, n_frames, start = (int(i) for i in np.fromfile(file, "<i8", 3))
        reserved = 1
        while reserved < n_frames:
            reserved *= ulm.N1
        if not (n_frames >= 0 and start >= 48 and start + 8 * n_frames <= size):
            raise StructureError(f"{path}: says it has {n_frames} frames, which do not fit into {size} bytes")
        file.seek(start)
        places = np.fromfile(file, "<i8", reserved)
    used, rest = places[:n_frames], places[n_frames:]
    if (np.diff(used) <= 0).any() or (used >= size).any() or (used < 48).any() or (rest > 0).any():
        raise StructureError(f"{path}: the table of its {n_frames} frames is damaged, or the file is truncated")
    return n_frames


def _atoms_of_frame(item: Any, header: Any) -> Atoms:
    charges, info = item.get("charges"), item.get("info")
    atoms = Atoms(numbers=header.numbers, positions=item.positions, pbc=header.pbc, charges=charges, info=info)
    calculator = item.get("calculator", {})
    return _with_results(atoms, {key: calculator.get(key) for key in all_properties if key in calculator})


def _with_results(atoms: Atoms, results: Mapping[str, Any]) -> Atoms:
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


class _ReadOnly(SQLite3Database):
    """A read-only database; ASE would create its tables in any SQLite file it opens."""

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(self.filename))}?mode=ro", uri=True)


def _rows(path: Path) -> Iterator[tuple[int, Atoms]]:
    last, n_read = 0, 0
    with damaged_file(f"{path}: cannot be read as an ASE database"):
        n_rows = _number_of_rows(path)
        with _ReadOnly(str(path.absolute()), use_lock_file=False, serial=True) as database:
            while page := list(database.select([("id", ">", last)], sort="id", limit=ROWS_AT_ONCE)):
                for row in page:
                    if row.id <= last:
                        raise StructureError(f"{path}: row {row.id} comes after row {last}: the database is damaged")
                    last, n_read = row.id, n_read + 1
                    yield row.id, _atoms_of_row(row)
    if n_read != n_rows:
        raise StructureError(f"{path}: gave {n_read} of its {n_rows} rows: the database is damaged")


def _number_of_rows(path: Path) -> int:
    """Return the number of rows, after checking that this is a sound SQLite file with a table of systems."""
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as connection:
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'systems'").fetchone()[0]
        if not tables:
            raise StructureError(f"{path}: has no table 'systems', so it is not a database of ASE")
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise StructureError(f"{path}: the database is damaged ({' '.join(str(found).split())[:200]})")
        return int(connection.execute("SELECT COUNT(*) FROM systems").fetchone()[0])


def _atoms_of_row(row: Any) -> Atoms:
    atoms = Atoms(numbers=row.numbers, positions=row.positions, pbc=row.pbc, charges=row.get("initial_charges"))
    results = {key: row.get(key) for key in RESULTS}
    return with_values(atoms, {**(row.get("data") or {}), **row.key_value_pairs}, results)


def with_values(atoms: Atoms, values: Mapping[str, Any], results: Mapping[str, Any]) -> Atoms:
    """Put the values of a row into a frame: rows per atom to its arrays, others to ``info``; and the results."""
    for key, value in values.items():
        rows = np.ndim(value) > 0 and np.size(value) != 1 and len(value) == len(atoms)
        if rows and key not in atoms.arrays:
            atoms.arrays[key] = np.asarray(value)
        elif np.ndim(value) > 0 and np.size(value) == 1:
            atoms.info[key] = np.asarray(value).reshape(-1)[0]
        else:
            atoms.info[key] = value
    return _with_results(atoms, {key: value for key, value in results.items() if value is not None})
