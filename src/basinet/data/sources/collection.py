"""What is said of a public data set: files, reader, units, level of theory, licence, citation, splits."""

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
    """What to make of the files of a source."""

    limit: int | None = None
    """Only the first molecules; published splits are then left out."""
    conformers: int = 10
    """Of geom-qm9: the conformers of a compound to keep, those of the largest Boltzmann weight."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name, value in (("limit", self.limit), ("conformers", self.conformers)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file that others publish."""

    name: str
    """In the cache."""
    urls: tuple[str, ...]
    """Where it is, in the order in which they are tried."""
    checksum: str | None = None
    """As published, ``sha256:...`` or ``md5:...``; ``None``: none is known, and the first download is believed."""
    n_bytes: int | None = None
    """``None``: not known."""


class Files(NamedTuple):
    """The files of a part in the cache, and what to make of them."""

    paths: tuple[Path, ...]
    """In the order of the part."""
    config: FetchConfig


Read = Callable[[Files], Sequence[Opened]]
"""Opens the files; molecules come in the published order, under names that splits may refer to."""
DrawSplits = Callable[[Files, Sequence[str]], Mapping[str, Split]]
"""Returns the splits that come with the files, by name, from the names of all molecules in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The files of one public data set, how they are read, and what they hold."""

    files: tuple[RemoteFile, ...]
    read: Read
    level_of_theory: str
    units: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Of labels other than energies and forces, as they are in the store."""
    n_molecules: int | None = None
    """As published; ``None``: not known."""
    splits: DrawSplits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Public data sets of one publication."""

    name: str
    what: str
    contents: Mapping[str, Contents]
    """Data sets by what follows the colon of their name; the empty text where nothing does."""
    units: str
    """Of its files, converted on the way into the store."""
    licence: str
    citation: str
    splits: tuple[str, ...] = ()
    """Published ones, for ``split=...``."""


class PublicDataset(NamedTuple):
    """A public data set under its name."""

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
