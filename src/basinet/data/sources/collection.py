"""Describe public data sets: files, reader, units, level of theory, licence, citation, splits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from basinet.config import settings
from basinet.data.files.options import AS_WRITTEN, Reading
from basinet.data.files.readers import open_file
from basinet.data.files.report import Opened, ReadReport, counted
from basinet.data.files.sdf import read_records
from basinet.data.sources.archives import damage_named, extract, walk
from basinet.data.stream.splits import Split
from basinet.structures import Molecule


@settings
class FetchConfig:
    """Options of fetching a public data set."""

    limit: int | None = None
    """Largest number of molecules; with it, published splits are left out."""
    conformers: int = 10
    """Conformers to keep per compound of geom-qm9, those of the largest Boltzmann weight."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name, value in (("limit", self.limit), ("conformers", self.conformers)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A published file."""

    name: str
    """Name in the cache."""
    urls: tuple[str, ...]
    """Addresses, in the order in which they are tried."""
    checksum: str | None = None
    """Published checksum, ``sha256:...`` or ``md5:...``; ``None``: the first download is accepted."""
    n_bytes: int | None = None
    """Published size; ``None``: not known."""


class Files(NamedTuple):
    """Downloaded files of a public data set, and the options of fetching."""

    paths: tuple[Path, ...]
    """Paths in the order of ``Contents.files``."""
    config: FetchConfig


Read = Callable[[Files], Sequence[Opened]]
"""Opens the files; molecules come in the published order, with names that splits may use."""
DrawSplits = Callable[[Files, Sequence[str]], Mapping[str, Split]]
"""Returns the splits that come with the files, by name, given the names of all molecules in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Files of one public data set, their reader, and what they hold."""

    files: tuple[RemoteFile, ...]
    read: Read
    level_of_theory: str
    units: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Units in the store of labels other than energies and forces."""
    n_molecules: int | None = None
    """Published number; ``None``: not known."""
    splits: DrawSplits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Public data sets of one publication."""

    name: str
    what: str
    contents: Mapping[str, Contents]
    """Data sets by the part of their name after the colon, which may be empty."""
    units: str
    """Units of its files, which are converted for the store."""
    licence: str
    citation: str
    splits: tuple[str, ...] = ()
    """Names of published splits, for ``split=...``."""


class PublicDataset(NamedTuple):
    """A public data set with the collection it belongs to."""

    collection: Collection
    key: str

    @property
    def contents(self) -> Contents:
        """Its files, their reader, and what they hold."""
        return self.collection.contents[self.key]

    @property
    def name(self) -> str:
        """Name to type in place of a path: ``qm9:``, ``rmd17:aspirin``."""
        return f"{self.collection.name}:{self.key}"


def as_they_are(reading: Reading = AS_WRITTEN) -> Read:
    """Return a function that opens files one after the other."""

    def read(files: Files) -> list[Opened]:
        return [open_file(path, reading) for path in files.paths]

    return read


def out_of_archive(*members: str, reading: Reading = AS_WRITTEN) -> Read:
    """Return a function that opens files of an archive, named by the ends of their paths."""

    def read(files: Files) -> list[Opened]:
        (archive,) = files.paths
        return [open_file(path, reading) for path in extract(archive, members)]

    return read


def minima_of_sdf_archive(files: Files) -> list[Opened]:
    """Open the SDF in an archive that is too large to unpack; records that are not valid are skipped and counted."""
    (archive,) = files.paths
    report = ReadReport(path=str(archive), skip_invalid=True)
    return [counted(_streamed(archive, report), report)]


def _streamed(archive: Path, report: ReadReport) -> Iterator[Molecule]:
    with damage_named(archive):
        for name, stream in walk(archive):
            if name.endswith(".sdf"):
                yield from read_records(stream, Path(name).name, report, Reading(is_equilibrium=True))
