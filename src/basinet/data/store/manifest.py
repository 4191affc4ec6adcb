"""Describe a store in its manifest: contents, origin, units and checksums."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols
from pydantic import TypeAdapter, ValidationError

from basinet import __version__
from basinet.data.store.arrays import FlatArrays
from basinet.units import property_unit

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
UNITS = {"energy": "eV", "length": "Angstrom", "forces": "eV/Angstrom", "charge": "e"}


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and checksum of one file of a shard."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class LabelEntry:
    """Shape of a label, and the number of molecules that have it."""

    per: Literal["molecule", "atom"]
    row_shape: tuple[int, ...]
    """Shape of one row; empty for a number."""
    count: int
    """Number of molecules that have it."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """Directory, files and contents of one shard."""

    name: str
    n_molecules: int
    n_atoms: int
    elements: Mapping[str, int]
    """Atoms of each element."""
    labels: Mapping[str, LabelEntry]
    skipped: Mapping[str, int]
    """Number of records that gave no molecule, by reason."""
    files: Mapping[str, FileEntry]

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(file.n_bytes for file in self.files.values())


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents and origin of a store."""

    level_of_theory: str
    source: str
    settings: Mapping[str, Any]
    """Settings that made the data, in JSON types."""
    shards: tuple[ShardEntry, ...] = ()
    complete: bool = False
    """True for a finished store; an unfinished one can be resumed but not read."""
    format_version: int = FORMAT_VERSION
    created_by: str = f"basinet {__version__}"
    units: Mapping[str, str] = field(default_factory=lambda: dict(UNITS))
    """Units of energy, length, forces and charge, and of further labels by name."""

    @property
    def n_molecules(self) -> int:
        """Molecules of all shards."""
        return sum(shard.n_molecules for shard in self.shards)

    @property
    def n_atoms(self) -> int:
        """Atoms of all shards."""
        return sum(shard.n_atoms for shard in self.shards)

    @property
    def elements(self) -> dict[str, int]:
        """Atoms of each element, by symbol."""
        return _total(shard.elements for shard in self.shards)

    @property
    def skipped(self) -> dict[str, int]:
        """Number of records that gave no molecule, by reason."""
        return _total(shard.skipped for shard in self.shards)

    @property
    def labels(self) -> dict[str, LabelEntry]:
        """Every label with the number of molecules that have it."""
        merged: dict[str, LabelEntry] = {}
        for shard in self.shards:
            for name, entry in shard.labels.items():
                count = entry.count + (merged[name].count if name in merged else 0)
                merged[name] = dataclasses.replace(entry, count=count)
        return dict(sorted(merged.items()))

    @property
    def fingerprint(self) -> str:
        """One hash of all the arrays."""
        lines = [f"{name} {file.sha256}" for shard in self.shards for name, file in sorted(shard.files.items())]
        return sha256("\n".join(lines).encode()).hexdigest()

    def with_shard(self, shard: ShardEntry) -> "Manifest":
        """Return the manifest with one more shard.

        Raises:
            ValueError: a label of the shard has another shape than in the shards before it.
        """
        known = self.labels
        for name, entry in shard.labels.items():
            if name in known and (known[name].per, known[name].row_shape) != (entry.per, entry.row_shape):
                raise ValueError(
                    f"label {name!r} is per {entry.per} with rows of shape {list(entry.row_shape)}, but per "
                    f"{known[name].per} with rows of shape {list(known[name].row_shape)} in the shards before; "
                    "give the two properties different names"
                )
        return dataclasses.replace(self, shards=(*self.shards, shard))

    def to_json(self) -> str:
        """Return the manifest as JSON, with the totals over the shards for people to read."""
        json.dumps(self.settings, allow_nan=False)  # pydantic would write NaN as null
        # pydantic and not json.dumps, whose indented form takes a second for a thousand shards
        body = _ADAPTER.dump_json(self, indent=1).decode().removesuffix("\n}")
        return f'{body},\n "totals": {json.dumps(self._totals())}\n}}'

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Read a manifest; ``where`` is its file, for messages."""
        try:
            record = json.loads(text)
            version = record["format_version"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{where} is not the manifest of a basinet store: no JSON with a format_version") from None
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ValueError(
                f"{where} has format version {version}, and this basinet ({__version__}) reads up to {FORMAT_VERSION}; "
                "update basinet"
            )
        totals = record.pop("totals", None)
        try:
            manifest = _ADAPTER.validate_python(record)
        except ValidationError as error:
            raise ValueError(f"{where} is damaged: {error}") from None
        if totals != json.loads(json.dumps(manifest._totals())):
            raise ValueError(f"{where} was edited or is damaged: its totals are not the sums over its shards")
        return manifest

    def _totals(self) -> dict[str, Any]:
        return {
            "n_molecules": self.n_molecules,
            "n_atoms": self.n_atoms,
            "elements": self.elements,
            "labels": {name: entry.count for name, entry in self.labels.items()},
            "skipped": self.skipped,
        }


_ADAPTER = TypeAdapter(Manifest)


def with_label_units(units: Mapping[str, str]) -> dict[str, str]:
    """Return the units of a store with those of further labels.

    Raises:
        ValueError: a unit is not the one that such a quantity has in the package, or a quantity has one already.
    """
    for label, unit in units.items():
        if label in UNITS:
            raise ValueError(f"the unit of {label!r} in a store is {UNITS[label]}; give units of further labels only")
        if property_unit(unit) != unit:
            raise ValueError(
                f"a store holds labels in the units of the package: {label!r} must be in {property_unit(unit)}, got "
                f"{unit}; multiply it by basinet.units.property_factor({unit!r})"
            )
    return {**UNITS, **units}


def require_same_origin(path: Path, found: Manifest, wanted: Manifest) -> None:
    """Raise a ``ValueError`` with the differences if the unfinished store at ``path`` has another origin."""
    pairs: dict[str, tuple[Any, Any]] = {
        "level_of_theory": (found.level_of_theory, wanted.level_of_theory),
        "source": (found.source, wanted.source),
    }
    for what, old, new in (("settings", found.settings, wanted.settings), ("units", found.units, wanted.units)):
        for key in sorted({*old, *new}):
            pairs[f"{what}.{key}"] = (old.get(key, "<absent>"), new.get(key, "<absent>"))
    differences = [f"{key} was {old!r}, now {new!r}" for key, (old, new) in pairs.items() if old != new]
    if differences:
        raise ValueError(
            f"{path} holds an unfinished store made differently: {'; '.join(differences)}. "
            "Use the same settings to resume it, or choose another path"
        )


def describe(name: str, arrays: FlatArrays, skipped: Mapping[str, int]) -> ShardEntry:
    """Return the manifest entry of a shard, with the sizes and hashes of the files it will have."""
    counts = np.bincount(arrays.atomic_numbers)
    labels = {k: LabelEntry(per="molecule", row_shape=(), count=int(arrays.has[k].sum())) for k in arrays.labels}
    labels |= {
        k: LabelEntry(per="atom", row_shape=tuple(v.shape[1:]), count=int(arrays.has[k].sum()))
        for k, v in arrays.atom_labels.items()
    }
    return ShardEntry(
        name=name,
        n_molecules=arrays.n_molecules,
        n_atoms=len(arrays.atomic_numbers),
        elements={chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)},
        labels=dict(sorted(labels.items())),
        skipped=dict(sorted(skipped.items())),
        files={f"{key}.npy": _file_entry(array) for key, array in arrays.to_files().items()},
    )


class _HashSink:
    """A file that keeps only the size and hash of its content."""

    def __init__(self) -> None:
        self.hash = sha256()
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.n_bytes += len(data)
        return len(data)


def _file_entry(array: np.ndarray) -> FileEntry:
    sink = _HashSink()
    np.lib.format.write_array(sink, array, allow_pickle=False)  # pyright: ignore[reportArgumentType]
    return FileEntry(n_bytes=sink.n_bytes, sha256=sink.hash.hexdigest())


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
