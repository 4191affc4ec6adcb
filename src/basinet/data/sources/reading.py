"""How the files of a source are opened when :mod:`basinet.data.files.readers` knows their format."""

from collections.abc import Iterator
from pathlib import Path

from basinet.data.files.options import AS_WRITTEN, Reading
from basinet.data.files.readers import open_file
from basinet.data.files.report import Opened, ReadReport, counted
from basinet.data.files.sdf import read_records
from basinet.data.sources.archives import damage_named, extract, walk
from basinet.data.sources.source import Files, Read
from basinet.structures import Molecule


def as_they_are(reading: Reading = AS_WRITTEN) -> Read:
    """Return how to open files one after the other."""

    def read(files: Files) -> list[Opened]:
        return [open_file(path, reading) for path in files.paths]

    return read


def out_of_archive(*members: str, reading: Reading = AS_WRITTEN) -> Read:
    """Return how to open files of an archive, by the ends of their paths in it."""

    def read(files: Files) -> list[Opened]:
        (archive,) = files.paths
        return [open_file(path, reading) for path in extract(archive, members)]

    return read


def minima_of_sdf_archive(files: Files) -> list[Opened]:
    """Open the SDF in an archive, too large to unpack; records that are not valid are counted and left out."""
    (archive,) = files.paths
    report = ReadReport(path=str(archive), skip_invalid=True)
    return [counted(_streamed(archive, report), report)]


def _streamed(archive: Path, report: ReadReport) -> Iterator[Molecule]:
    with damage_named(archive):
        for name, stream in walk(archive):
            if name.endswith(".sdf"):
                yield from read_records(stream, Path(name).name, report, Reading(is_equilibrium=True))
