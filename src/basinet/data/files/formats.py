"""Which format a file is of: by its first bytes where they tell, otherwise by its suffix."""

from pathlib import Path
from typing import Literal

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


def format_of(path: Path) -> Format:
    """Return the format of a file.

    A file of binary numbers is what its first bytes say, whatever it is called; a text is what its suffix says, or
    what its first lines look like where the suffix says nothing.

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
