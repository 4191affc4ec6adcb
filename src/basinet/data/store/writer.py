"""Write a store shard by shard, so that a killed writer loses one shard at most."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from basinet.data.store.arrays import FlatArrays, concatenate, flatten
from basinet.data.store.manifest import (
    MANIFEST_FILE,
    Manifest,
    ShardEntry,
    describe,
    require_same_origin,
    with_label_units,
)
from basinet.data.store.shards import copy_shard, read_manifest, read_shard, shard_name
from basinet.data.store.store import MoleculeStore
from basinet.files import TEMPORARY, NoRoomError, write_array_directory, write_text
from basinet.structures import Molecule

MERGED_MOLECULES = 2**18
"""Size up to which ``StoreWriter.finish`` joins small shards: a batch costs some microseconds per shard it touches."""
MERGED_ATOMS = 2**22
"""The same in atoms; joining holds them in memory, about 100 MB a copy."""


class StoreWriter:
    """Writer of a store, shard by shard; killed at any moment, it resumes after the last shard.

    A shard is written beside the store and moved in; the manifest, replaced last, decides what exists. Shards may be
    as small as the work worth losing, for ``finish`` joins them. One process writes a store.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest
        self._written = (path / MANIFEST_FILE).read_text(encoding="utf-8")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        level_of_theory: str,
        source: str,
        settings: Mapping[str, Any],
        units: Mapping[str, str] | None = None,
    ) -> "StoreWriter":
        """Start a new store, or resume an unfinished one.

        Args:
            path: Directory of the store; made if need be.
            level_of_theory: Level of theory of the labels, such as "GFN2-xTB"; empty without labels.
            source: Origin of the molecules.
            settings: Settings that made them, in JSON types.
            units: Units of labels other than energies and forces, by name, among those of the package. To resume, all
                of these must be the same as before.

        Raises:
            FileExistsError: the store is finished, or the directory holds something else.
            ValueError: the unfinished store was made with other settings.
        """
        path = Path(path)
        of_labels = with_label_units(units or {})
        wanted = Manifest(level_of_theory=level_of_theory, source=source, settings=settings, units=of_labels)
        wanted = Manifest.from_json(wanted.to_json(), "settings")  # as JSON keeps it: tuples become lists
        path.mkdir(parents=True, exist_ok=True)
        if (path / MANIFEST_FILE).exists():
            found = read_manifest(path)
            if found.complete:
                raise FileExistsError(
                    f"{path} already holds a finished store of {found.n_molecules} molecules; "
                    "choose another path or delete it"
                )
            require_same_origin(path, found, wanted)
            wanted = found
        elif any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise FileExistsError(f"{path} is not empty and not a basinet store; choose another path")
        else:
            write_text(path / MANIFEST_FILE, wanted.to_json())
        writer = cls(path, wanted)
        writer._remove_leftovers()
        return writer

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return self._path

    @property
    def n_shards(self) -> int:
        """Number of shards on the disk: the first one to write after an interruption."""
        return len(self._manifest.shards)

    @property
    def manifest(self) -> Manifest:
        """Manifest so far."""
        return self._manifest

    def write_shard(self, molecules: Sequence[Molecule], skipped: Mapping[str, int] | None = None) -> None:
        """Write the next shard, all or nothing; it may have no molecules.

        Args:
            molecules: The molecules of the shard.
            skipped: Number of molecules skipped since the last shard, by reason.

        Raises:
            OSError: it could not be written; the shards before it are safe and the store can be resumed.
        """
        self.write_arrays(flatten(molecules), skipped)

    def write_arrays(self, arrays: FlatArrays, skipped: Mapping[str, int] | None = None) -> None:
        """Write the next shard from arrays; see :meth:`write_shard`."""
        entry = describe(shard_name(self.n_shards), arrays, skipped or {})
        self._add(entry, lambda target: write_array_directory(target, arrays.to_files()))

    def copy_shard(self, source: Path, entry: ShardEntry) -> None:
        """Write the next shard as a copy of one of the store in ``source``, byte by byte.

        Raises:
            OSError: as ``write_shard``.
            ValueError: a file of the shard is damaged, or its labels are not those of the shards before.
        """
        renamed = dataclasses.replace(entry, name=shard_name(self.n_shards))
        self._add(renamed, lambda target: copy_shard(source, entry, target))

    def _add(self, entry: ShardEntry, write: Callable[[Path], None]) -> None:
        manifest = self._manifest.with_shard(entry)
        try:
            self._require_sole_writer()
            write(self._path / entry.name)
            self._replace_manifest(manifest)
        except OSError as error:
            raise self._cleaned_up(error, f"shard {self.n_shards}") from error

    def finish(self) -> MoleculeStore:
        """Join small shards, mark the store complete and open it.

        Raises:
            OSError: the disk is full (joining needs room for a second copy); the store can be resumed.
        """
        return self._finish(self._merge_shards)

    def finish_unjoined(self) -> MoleculeStore:
        """Mark the store complete without joining shards, which needs neither memory nor space, and open it."""
        return self._finish(lambda: self._manifest.shards)

    def _finish(self, shards: Callable[[], tuple[ShardEntry, ...]]) -> MoleculeStore:
        try:
            self._require_sole_writer()
            self._replace_manifest(dataclasses.replace(self._manifest, shards=shards(), complete=True))
        except OSError as error:
            raise self._cleaned_up(error, "the finished store") from error
        self._remove_leftovers()
        return MoleculeStore.open(self._path)

    def discard(self) -> None:
        """Delete the unfinished store, whose input turned out to be damaged."""
        self._require_sole_writer()
        for shard in self._manifest.shards:
            shutil.rmtree(self._path / shard.name, ignore_errors=True)
        self._manifest = dataclasses.replace(self._manifest, shards=())
        self._remove_leftovers()
        (self._path / MANIFEST_FILE).unlink()
        if not any(self._path.iterdir()):
            self._path.rmdir()

    def _merge_shards(self) -> tuple[ShardEntry, ...]:
        merged: list[ShardEntry] = []
        for group in _groups(self._manifest.shards):
            if len(group) == 1:
                merged.append(group[0])
                continue
            arrays = concatenate([read_shard(self._path, entry, verify=True) for entry in group])
            skipped = Manifest(level_of_theory="", source="", settings={}, shards=group).skipped
            entry = describe(shard_name(self.n_shards + len(merged)), arrays, skipped)
            shutil.rmtree(self._path / entry.name, ignore_errors=True)
            write_array_directory(self._path / entry.name, arrays.to_files())
            merged.append(entry)
        return tuple(merged)

    def _replace_manifest(self, manifest: Manifest) -> None:
        text = manifest.to_json()
        write_text(self._path / MANIFEST_FILE, text)
        self._manifest, self._written = manifest, text

    def _require_sole_writer(self) -> None:
        if (self._path / MANIFEST_FILE).read_text(encoding="utf-8") != self._written:
            raise ValueError(f"{self._path} was changed by another process; only one may write a store at a time")

    def _remove_leftovers(self) -> None:
        """Delete the leftovers of a killed writer: shards and temporary files that the manifest does not name."""
        known = {MANIFEST_FILE, *(shard.name for shard in self._manifest.shards)}
        for entry in self._path.iterdir():
            if entry.name in known or not entry.name.startswith((TEMPORARY, "shard-")):
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _cleaned_up(self, error: OSError, what: str) -> OSError:
        """Delete what is unfinished and return the error to raise."""
        self._remove_leftovers()
        reason = error.why if isinstance(error, NoRoomError) else error.strerror or error
        return OSError(
            f"{self._path}: could not write {what} ({reason}). The {self.n_shards} shards before are "
            "safe; free some space and run the same command again to resume",
        )


def _groups(shards: Sequence[ShardEntry]) -> list[tuple[ShardEntry, ...]]:
    """Group successive shards up to the limits of joining; a larger shard is a group of its own."""
    groups: list[tuple[ShardEntry, ...]] = []
    for shard in shards:
        joined = (*groups[-1], shard) if groups else (shard,)
        few_molecules = sum(s.n_molecules for s in joined) <= MERGED_MOLECULES
        if groups and few_molecules and sum(s.n_atoms for s in joined) <= MERGED_ATOMS:
            groups[-1] = joined
        else:
            groups.append((shard,))
    return groups
