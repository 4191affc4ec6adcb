"""Read LMDB files of JSON records, such as the databases of ASE-LMDB (``ase-db-backends``, fairchem).

A record is a JSON object, plain or compressed by zlib, with ``numbers``, ``positions`` and the other fields of a row of
ASE. Pickled records, as in OC20, Uni-Mol and most copies of PCQM4Mv2, are refused: reading a pickle runs code.
"""

import json
import subprocess
import sys
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms

from basinet.data.files import lmdb_pages
from basinet.data.files.ase_atoms import read_atoms
from basinet.data.files.ase_files import RESULTS, with_values
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, damaged_file
from basinet.errors import optional_module
from basinet.structures import Molecule, StructureError
from basinet.structures.ase_labels import SMILES_KEY

MAX_RECORD = 2**28
"""Largest record, bytes, compressed or not."""
ELEMENTS = ("numbers", "atomic_numbers", "symbols", "atoms")
POSITIONS = ("positions", "pos", "coordinates")
OF_FILE = frozenset({b"nextid", b"deleted_ids", b"metadata", b"length"})
"""Keys of records about the file."""
OF_ASE = frozenset({"cell", "pbc", "constraints", "ctime", "mtime", "user", "unique_id", "tags", "masses", *RESULTS})
OF_CALCULATOR = frozenset({"calculator", "calculator_parameters", "initial_charges", "initial_magmoms", "momenta"})
OF_ROW = OF_ASE | OF_CALCULATOR | {"data", "key_value_pairs"}
"""Fields of a row that are not labels, or are read by name."""


def read_lmdb(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read records in the order of their numbers; ``name`` is ``file.lmdb:17`` with the number of the record.

    Raises:
        StructureError: the file is damaged, records are not JSON, or a row is periodic.
        ImportError: lmdb is not installed.
    """
    n_rows = 0
    expected: dict[bytes, Any] = {}
    for key, value in records(path):
        name = f"{path.name}:{key.decode('utf-8', errors='replace')[:40]}"
        record = _decoded(path, name, value)
        if key in OF_FILE:
            expected[key] = record
            continue
        n_rows += 1
        yield from read_atoms(_atoms(record, name), name, report, reading)
    _require_all_rows(path, n_rows, expected)


def _require_all_rows(path: Path, n_rows: int, about: Mapping[bytes, Any]) -> None:
    next_id, deleted = about.get(b"nextid"), about.get(b"deleted_ids", [])
    if next_id is None:
        return
    if not isinstance(next_id, int) or not isinstance(deleted, list) or next_id - 1 - len(set(deleted)) != n_rows:
        raise StructureError(f"{path}: has {n_rows} rows, but says that the next is {str(next_id)[:40]}: it is damaged")


def records(path: Path) -> Generator[tuple[bytes, bytes], None, None]:
    """Yield keys and values, read in a process of its own: damaged pages crash the process that reads them."""
    optional_module("lmdb", "lmdb", "reading LMDB files")
    command = [sys.executable, "-I", lmdb_pages.__file__, str(path.absolute())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            count = yield from _copied(process.stdout)
        finally:
            process.kill()
        if count is None:
            lines = process.stderr.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1][:200] if lines else f"reading it ended with code {process.wait()}"
            raise StructureError(f"{path}: cannot be read as LMDB ({reason}); is it truncated?")
        found, said = count
        if found != said:
            raise StructureError(f"{path}: gave {found} of its {said} records: it is damaged")


def _copied(file: IO[bytes]) -> Generator[tuple[bytes, bytes], None, tuple[int, int] | None]:
    """Yield the output of the process; return the numbers of records found and stated, or ``None`` if it broke off."""
    said, found = 0, -1
    while True:
        header = file.read(lmdb_pages.LENGTHS.size)
        if len(header) < lmdb_pages.LENGTHS.size:
            return None
        n_key, n_value = lmdb_pages.LENGTHS.unpack(header)
        if n_key > MAX_RECORD or n_value > MAX_RECORD:
            return None
        key, value = file.read(n_key), file.read(n_value)
        if len(key) < n_key or len(value) < n_value:
            return None
        if found < 0:
            said, found = int(value), 0
        elif not key and not value:
            return found, said
        else:
            found += 1
            yield key, value


def _decoded(path: Path, name: str, value: bytes) -> Any:
    with damaged_file(f"{name}: the record is not JSON, plain or compressed by zlib"):
        if value[:1] == b"\x78":
            value = unpacked(value)
        if value[:1] == b"\x80":
            raise StructureError(
                f"{path}: its records are pickled, and reading a pickle runs the code in it; where you trust the file, "
                "write it again as ASE-LMDB (ase-db-backends), extended XYZ or HDF5"
            )
        return json.loads(value)


def unpacked(value: bytes, window: int = zlib.MAX_WBITS) -> bytes:
    """Return a record that was compressed by zlib, or with ``window=16 + zlib.MAX_WBITS`` by gzip.

    Raises:
        ValueError: it is cut off or too large; zlib raises errors of its own.
    """
    unpacker = zlib.decompressobj(window)
    value = unpacker.decompress(value, MAX_RECORD)
    if not unpacker.eof:
        raise ValueError(f"it is cut off, or more than {MAX_RECORD} bytes")
    return value


def _atoms(record: Any, name: str) -> Atoms:
    if not isinstance(record, dict):
        raise StructureError(f"{name}: the record is {type(record).__name__}, expected an object")
    if not (set(ELEMENTS) & set(record) and set(POSITIONS) & set(record)):
        there = ", ".join(sorted(record))[:300] or "nothing"
        raise StructureError(f"{name}: has no numbers and positions; it has {there}")
    with damaged_file(f"{name}: the record is not a molecule"):
        fields = _plain(record)
        elements = next(fields.pop(key) for key in ELEMENTS if key in fields)
        positions = np.asarray(next(fields.pop(key) for key in POSITIONS if key in fields), dtype=np.float64)
        pbc, charges = fields.get("pbc", False), fields.get("initial_charges")
        atoms = Atoms(elements, positions=positions, pbc=pbc, charges=charges)
        own = {key: value for key, value in fields.items() if key not in OF_ROW}
        own |= {SMILES_KEY: own["smi"]} if "smi" in own else {}
        values = own | (fields.get("data") or {}) | (fields.get("key_value_pairs") or {})
        results = {key: np.asarray(v) if isinstance(v := fields.get(key), list) else v for key in RESULTS}
        return with_values(atoms, values, results)


def _plain(value: Any) -> Any:
    """Return a JSON value with the arrays of ASE's JSON (``__ndarray__``: shape, type, numbers) as arrays."""
    if isinstance(value, dict):
        if value.keys() == {"__ndarray__"}:
            shape, kind, numbers = value["__ndarray__"]
            return np.array(numbers, dtype=kind).reshape(shape)
        return {key: _plain(entry) for key, entry in value.items()}
    return value
