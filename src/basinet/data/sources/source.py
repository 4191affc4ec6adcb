"""What is said of a public data set: files, reader, units, level of theory, licence, citation, splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from basinet.config import settings
from basinet.data.files.report import Opened
from basinet.data.stream.splits import Split


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
class Part:
    """One data set of a source: what one name gives."""

    files: tuple[RemoteFile, ...]
    read: Read
    level_of_theory: str
    units: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Of labels other than energies and forces, as they are in the store."""
    n_molecules: int | None = None
    """As published; ``None``: not known."""
    splits: DrawSplits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A public data set, with one part or several."""

    name: str
    what: str
    parts: Mapping[str, Part]
    """By what follows the colon of a name; a source of one part has it under the empty text."""
    units: str
    """Of its files, converted on the way into the store."""
    licence: str
    citation: str
    splits: tuple[str, ...] = ()
    """Published ones, for ``split=...``."""


class Dataset(NamedTuple):
    """A part with its source."""

    source: Source
    key: str

    @property
    def part(self) -> Part:
        """Where its files are and how they are read."""
        return self.source.parts[self.key]

    @property
    def name(self) -> str:
        """As it is written in place of a path: ``qm9:``, ``rmd17:aspirin``."""
        return f"{self.source.name}:{self.key}"
