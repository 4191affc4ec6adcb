"""Open a file of molecules with the reader of its format, which its first bytes tell, or else its suffix."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from basinet.data.files.ase_files import read_ase_db, read_traj
from basinet.data.files.extxyz import read_extxyz
from basinet.data.files.hdf5 import read_hdf5
from basinet.data.files.lmdb import read_lmdb
from basinet.data.files.npz import read_npz
from basinet.data.files.options import AS_WRITTEN, Reading
from basinet.data.files.parquet import read_parquet
from basinet.data.files.report import Opened, ReadReport, counted
from basinet.data.files.sdf import read_sdf
from basinet.data.files.smiles_table import read_csv
from basinet.structures import Molecule

Format = Literal["extxyz", "sdf", "npz", "mat", "traj", "db", "hdf5", "lmdb", "csv", "parquet"]

SUFFIXES: dict[str, Format] = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".sdf": "sdf",
    ".npz": "npz",
    ".mat": "mat",
    ".traj": "traj",
    ".db": "db",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".lmdb": "lmdb",
    ".aselmdb": "lmdb",
    ".mdb": "lmdb",
    ".csv": "csv",
    ".parquet": "parquet",
}
MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"PK\x03\x04", "npz"),
    (0, b"- of Ulm", "traj"),
    (0, b"SQLite format 3\0", "db"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"PAR1", "parquet"),
    (0, b"MATLAB 5.0 MAT-file", "mat"),
    (16, b"\xde\xc0\xef\xbe", "lmdb"),
)
"""Place, bytes and what they tell."""
BEGINNING = 4096
READERS: Mapping[Format, Callable[[Path, ReadReport, Reading], Iterator[Molecule]]] = MappingProxyType(
    {
        "extxyz": read_extxyz,
        "sdf": read_sdf,
        "npz": read_npz,
        "mat": read_npz,
        "traj": read_traj,
        "db": read_ase_db,
        "hdf5": read_hdf5,
        "lmdb": read_lmdb,
        "csv": read_csv,
        "parquet": read_parquet,
    }
)
"""A reader raises what is wrong with the file as a whole when it is called, the rest as molecules are taken."""


def open_file(path: Path, reading: Reading = AS_WRITTEN) -> Opened:
    """Return an iterator over the molecules of a file, and a report that fills as they are read.

    Raises:
        ValueError: the format is unknown, or an option makes no sense for it.
    """
    report = ReadReport.of(path, reading)
    return counted(READERS[format_of(path)](path, report, reading), report)


def format_of(path: Path) -> Format:
    """Return the format of a file.

    The first bytes decide for a binary file, whatever its name; for a text the suffix decides, or else its first lines.

    Raises:
        ValueError: neither tells.
    """
    with open(path, "rb") as file:
        beginning = file.read(BEGINNING)
    for place, magic, name in MAGIC:
        if beginning[place : place + len(magic)] == magic:
            return name
    by_suffix = SUFFIXES.get(path.suffix.lower())
    if by_suffix is not None:
        return by_suffix
    if (by_text := _format_of_text(beginning)) is not None:
        return by_text
    what = path.suffix or "a file without suffix"
    raise ValueError(f"{path}: cannot read {what}; expected {', '.join(SUFFIXES)}")


def _format_of_text(beginning: bytes) -> Format | None:
    lines = [line.strip() for line in beginning.split(b"\n")]
    if lines[0].isdigit() and len(lines) > 2:
        return "extxyz"
    if len(lines) > 3 and lines[3].endswith((b"V2000", b"V3000")):
        return "sdf"
    if b"smiles" in [cell.strip().lower() for cell in lines[0].split(b",")]:
        return "csv"
    return None
