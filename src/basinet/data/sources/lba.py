"""Ligand binding affinity of ATOM3D: a pocket and its ligand as one cloud of atoms, with -log10 of the affinity.

An LMDB of gzipped JSON: ``atoms_pocket`` and ``atoms_ligand`` are tables of atoms (``columns``, ``data``), ``scores``
holds ``neglog_aff``. Records that are pickled are refused.
"""

import json
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers as number_of_symbol

from basinet.data.files.report import Opened, ReadReport, counted, valid
from basinet.data.sources.archives import extract
from basinet.data.sources.source import Files
from basinet.structures import Molecule, StructureError

PARTS = {"train": "train", "validation": "val", "test": "test"}
"""Directories of the archive by the parts of the split."""
MAX_RECORD = 2**28
"""Bytes of an unpacked record; one that gives more is damaged or hostile."""
LABEL = "neglog_aff"
REHEARSAL = """
import lmdb, sys
with lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False, readahead=False) as file, file.begin() as records:
    records.get(b"serialization_format")
    for number in range(min(int(records.get(b"num_examples") or 0), file.stat()["entries"])):
        sum((records.get(str(number).encode()) or b"")[::4096])
"""
"""What is read, read by another process first: LMDB trusts its file, and damaged pages crash whoever reads them."""
REHEARSAL_LIMIT = 600.0
"""Seconds; damaged pages can send LMDB round in circles."""


def open_affinities(files: Files) -> list[Opened]:
    """Open the three databases of an archive; names are ``train:17``, numbered as in the database."""
    (archive,) = files.paths
    databases = extract(archive, [f"{directory}/data.mdb" for directory in PARTS.values()])
    opened: list[Opened] = []
    for part, database in zip(PARTS, databases, strict=True):
        report = ReadReport(path=f"{archive}:{part}", skip_invalid=True)
        opened.append(counted(_molecules(database, part, report), report))
    return opened


def _molecules(database: Path, part: str, report: ReadReport) -> Iterator[Molecule]:
    for number, record in enumerate(_records(database)):
        name = f"{part}:{number}"
        try:
            atoms = [_atoms(record[table]) for table in ("atoms_pocket", "atoms_ligand")]
            affinity = float(record["scores"][LABEL])
        except (KeyError, TypeError, ValueError) as error:
            raise StructureError(f"{name}: not a record of ATOM3D LBA ({error!r})") from None
        report.properties[f"{LABEL} (1)"] += 1
        yield from valid(
            report,
            atomic_numbers=np.concatenate([numbers for numbers, _ in atoms]),
            positions=np.concatenate([positions for _, positions in atoms]),
            labels={LABEL: affinity},
            name=name,
        )


def _atoms(table: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return atomic numbers and positions (Å) of a table."""
    places = [table["columns"].index(column) for column in ("element", "x", "y", "z")]
    rows = [[row[place] for place in places] for row in table["data"]]
    numbers = np.array([number_of_symbol[str(row[0]).strip().capitalize()] for row in rows], dtype=np.int64)
    return numbers, np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 3)


def _records(database: Path) -> Iterator[Mapping[str, Any]]:
    with _reading(database) as read:
        how = (read(b"serialization_format") or b"").decode("ascii", errors="replace")
        if how != "json":
            raise StructureError(f"{database}: its records are {how or 'of unknown kind'}, and only JSON is read")
        count = read(b"num_examples") or b""
        if not count.isdigit():
            raise StructureError(f"{database}: does not say how many records it has")
        for number in range(int(count)):
            packed = read(str(number).encode("ascii"))
            if packed is None:
                raise StructureError(f"{database}: has no record {number} of {int(count)}")
            yield _unpacked(packed, f"{database}: record {number}")


def _unpacked(packed: bytes, where: str) -> Mapping[str, Any]:
    try:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        text = unpacker.decompress(packed, MAX_RECORD)
        if not unpacker.eof:
            raise ValueError("it is cut off, or too large")
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError(f"expected a mapping, got {type(record).__name__}")
    except (zlib.error, ValueError, RecursionError) as error:
        raise StructureError(f"{where} cannot be read ({error})") from None
    return record


@contextmanager
def _reading(database: Path) -> Iterator[Any]:
    """Give a function that returns the value of a key, or ``None``."""
    try:
        import lmdb
    except ImportError:
        raise ImportError('reading LMDB needs lmdb: pip install "basinet[lmdb]"') from None
    _rehearse(database)
    try:
        with (
            lmdb.open(str(database), subdir=False, readonly=True, lock=False, readahead=False) as environment,
            environment.begin() as transaction,
        ):
            yield transaction.get
    except lmdb.Error as error:
        raise StructureError(f"{database}: cannot be read as LMDB ({error})") from None


def _rehearse(database: Path) -> None:
    command = [sys.executable, "-I", "-c", REHEARSAL, str(database)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=REHEARSAL_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise StructureError(f"{database}: is damaged; LMDB goes round in circles in it") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:200] if lines else f"reading it ended with code {done.returncode}"
        raise StructureError(f"{database}: cannot be read as LMDB ({reason}); is it truncated?")
