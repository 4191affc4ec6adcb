"""How the files of a source are opened when a reader of :mod:`basinet.data.reading` knows their format."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basinet.data.files.report import ReadReport, counted
from basinet.data.files.sdf import read_records
from basinet.data.sources.archives import damage_named, extract, walk
from basinet.data.sources.source import Files, Opened, Read
from basinet.structures import Molecule


def as_they_are(**arguments: Any) -> Read:
    """Return how to open files one after the other; the arguments are those of ``open_molecules``."""

    def read(files: Files) -> list[Opened]:
        return [files.open(path, **arguments) for path in files.paths]

    return read


def out_of_archive(*members: str, **arguments: Any) -> Read:
    """Return how to open files of an archive, by the ends of their paths in it."""

    def read(files: Files) -> list[Opened]:
        (archive,) = files.paths
        return [files.open(path, **arguments) for path in extract(archive, members)]

    return read


def minima_of_sdf_archive(files: Files) -> list[Opened]:
    """Open the SDF in an archive, too large to unpack; records that are not valid are counted and left out."""
    (archive,) = files.paths
    report = ReadReport(path=str(archive), energy_unit="eV", length_unit="Angstrom", skip_invalid=True)
    return [counted(_streamed(archive, report), report)]


def _streamed(archive: Path, report: ReadReport) -> Iterator[Molecule]:
    with damage_named(archive):
        for name, stream in walk(archive):
            if name.endswith(".sdf"):
                yield from read_records(stream, Path(name).name, report, is_equilibrium=True)
