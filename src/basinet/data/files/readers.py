"""Open a file of molecules with the reader of its format."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from basinet.data.files.ase_files import read_ase_db, read_traj
from basinet.data.files.extxyz import read_extxyz
from basinet.data.files.formats import Format, format_of
from basinet.data.files.hdf5 import read_hdf5
from basinet.data.files.lmdb import read_lmdb
from basinet.data.files.npz import read_npz
from basinet.data.files.options import AS_WRITTEN, Reading
from basinet.data.files.parquet import read_parquet
from basinet.data.files.report import Opened, ReadReport, counted
from basinet.data.files.sdf import read_sdf
from basinet.data.files.smiles_table import read_csv
from basinet.structures import Molecule

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
