"""Read ligand binding affinities of ATOM3D: pocket and ligand as one cloud of atoms, with -log10 of the affinity.

An LMDB of gzipped JSON: ``atoms_pocket`` and ``atoms_ligand`` are tables of atoms (``columns``, ``data``), ``scores``
holds ``neglog_aff``. Records that are pickled are refused.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers as number_of_symbol

from basinet.data.files.lmdb import records, unpacked
from basinet.data.files.report import Opened, ReadReport, counted, damaged_file, valid
from basinet.data.sources.archives import extract
from basinet.data.sources.collection import Files
from basinet.structures import Molecule, StructureError

PARTS = {"train": "train", "validation": "val", "test": "test"}
"""Directories of the archive by part of the split."""
LABEL = "neglog_aff"


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
    about = {key: value for key, value in records(database) if not key.isdigit()}
    kind = about.get(b"serialization_format", b"").decode("ascii", errors="replace")
    if kind != "json":
        raise StructureError(f"{database}: its records are {kind or 'of unknown kind'}, and only JSON is read")
    count = about.get(b"num_examples", b"")
    if not count.isdigit():
        raise StructureError(f"{database}: does not say how many records it has")
    numbered = ((key, value) for key, value in records(database) if key.isdigit())
    for number in range(int(count)):
        key, packed = next(numbered, (b"", b""))
        if key != str(number).encode():
            raise StructureError(f"{database}: has no record {number} of {int(count)}")
        yield _unpacked(packed, f"{database}: record {number}")


def _unpacked(packed: bytes, where: str) -> Mapping[str, Any]:
    with damaged_file(f"{where} cannot be read"):
        record = json.loads(unpacked(packed, 16 + zlib.MAX_WBITS))
        if not isinstance(record, dict):
            raise ValueError(f"expected a mapping, got {type(record).__name__}")
        return record
