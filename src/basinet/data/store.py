"""The store: millions of molecules on disk, read as batches at the speed of memory.

Layout::

    store/
    ├── manifest.json        what it is, with the size and hash of every file
    ├── shard-00000/         flat .npy arrays (see ``arrays.FlatArrays``), never pickled
    └── shard-00001/

Molecules are laid end to end in flat memory-mapped arrays because a batch is then a few vectorised takes.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers as number_of_symbol
from jaxtyping import Int, Int64

from basinet.data.arrays import FlatArrays, concatenate, flatten
from basinet.data.files import TEMPORARY, write_array_directory, write_text
from basinet.data.gather import Located, MoleculeRows, MoleculeValues, TopologyColumns, flag_columns, locate
from basinet.data.manifest import MANIFEST_FILE, Manifest, ShardEntry, describe, require_same_origin, with_label_units
from basinet.data.shards import copy_shard, read_manifest, read_shard, shard_name
from basinet.structures import Batch, Molecule

MERGED_MOLECULES = 2**18
"""``StoreWriter.finish`` joins small shards up to this size: a batch costs a few microseconds per shard it touches."""
MERGED_ATOMS = 2**22
"""The same in atoms: joining holds all of them in memory, about 100 MB a copy."""


class MoleculeStore:
    """Molecules with their labels, by index. Made by ``open``, ``from_molecules`` or ``StoreWriter.finish``.

    >>> from ase.build import molecule
    >>> water = molecule("H2O")
    >>> m = Molecule(atomic_numbers=water.numbers, positions=water.positions, labels={"energy": -14.2})
    >>> store = MoleculeStore.from_molecules([m, m])
    >>> store.gather(np.array([1, 0])).labels["energy"].tolist()
    [-14.2, -14.2]
    """

    def __init__(self, manifest: Manifest, shards: Sequence[FlatArrays]) -> None:
        self.manifest = manifest
        """Where the data came from and what is in it."""
        self.shards = tuple(shards)
        """The arrays, shard by shard."""
        self._atoms = MoleculeRows(
            [s.offsets for s in shards],
            [{"atomic_numbers": s.atomic_numbers, "positions": s.positions, **s.atom_labels} for s in shards],
        )
        self._topology = TopologyColumns(shards) if any(s.has_bonds.any() for s in shards) else None
        self._first = np.cumsum([0, *(s.n_molecules for s in shards)], dtype=np.int64)
        of_labels = manifest.labels
        self._flags = MoleculeValues(
            [flag_columns(shard) for shard in shards],
            {
                "is_equilibrium": False,
                **({} if self._topology is None else {"has_bonds": False, "has_rotors": False}),
                **{f"has_{name}": False for name in of_labels},
            },
        )
        self._labels = MoleculeValues(
            [s.labels for s in shards],
            {name: np.nan for name, entry in of_labels.items() if entry.per == "molecule"},
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = False) -> "MoleculeStore":
        """Open a finished store; the arrays stay on disk and are read on demand.

        Args:
            path: The directory of the store.
            verify: Compare the hash of every file with the manifest (reads everything) and not just its size.

        Raises:
            ValueError: not a store, not finished, of a newer format, or damaged.
        """
        manifest = read_manifest(Path(path))
        if not manifest.complete:
            raise ValueError(
                f"{path} is an unfinished store ({len(manifest.shards)} shards, {manifest.n_molecules} molecules); "
                "run the command that was writing it again: it resumes where it stopped"
            )
        return cls(manifest, [read_shard(Path(path), entry, verify) for entry in manifest.shards])

    @classmethod
    def from_molecules(
        cls,
        molecules: Sequence[Molecule],
        *,
        level_of_theory: str = "",
        source: str = "",
        units: Mapping[str, str] | None = None,
    ) -> "MoleculeStore":
        """Make a store in memory; ``units`` are those of labels other than energies and forces, by name."""
        arrays = flatten(molecules)
        manifest = Manifest(
            level_of_theory=level_of_theory,
            source=source,
            settings={},
            complete=True,
            units=with_label_units(units or {}),
        )
        return cls(manifest.with_shard(describe(shard_name(0), arrays, {})), [arrays])

    def with_arrays(self, arrays: FlatArrays, **settings: Any) -> "MoleculeStore":
        """Return a store in memory of the same origin; the settings are added to those on record."""
        manifest = dataclasses.replace(self.manifest, settings={**self.manifest.settings, **settings}, shards=())
        return MoleculeStore(manifest.with_shard(describe(shard_name(0), arrays, self.manifest.skipped)), [arrays])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int | np.integer) -> Molecule:
        if not -len(self) <= index < len(self):
            raise IndexError(f"molecule {index} of a store of {len(self)}")
        index = int(index) % len(self)
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        return self.shards[shard][index - int(self._first[shard])]

    def __iter__(self) -> Iterator[Molecule]:
        return (molecule for shard in self.shards for molecule in map(shard.__getitem__, range(shard.n_molecules)))

    @cached_property
    def atoms_per_molecule(self) -> Int64[np.ndarray, " n_molecules"]:
        """Number of atoms of each molecule; of many millions of them, ask for those you need: :meth:`atom_counts`."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(np.diff(s.offsets) for s in self.shards)])

    def atom_counts(self, indices: Int[np.ndarray, " n_chosen"]) -> Int64[np.ndarray, " n_chosen"]:
        """Return the number of atoms of the given molecules."""
        return self._atoms.counts(self._locate(indices))

    @property
    def fingerprint(self) -> str:
        """One hash of all the data; the same molecules give the same hash in memory and on disk."""
        return self.manifest.fingerprint

    @cached_property
    def smiles(self) -> list[str]:
        """SMILES of each molecule, empty where unknown."""
        return [smiles for shard in self.shards for smiles in shard.smiles.to_list()]

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that occur."""
        return frozenset(number_of_symbol[symbol] for symbol in self.manifest.elements)

    @property
    def charges(self) -> frozenset[int]:
        """Total charges that occur, e."""
        return frozenset(charge for shard in self.shards for charge in np.unique(shard.charges).tolist())

    @property
    def sizes(self) -> tuple[int, int]:
        """Atoms of the smallest and of the largest molecule; (0, 0) without molecules."""
        counts = [np.diff(shard.offsets) for shard in self.shards if len(shard.offsets) > 1]
        return (min(int(c.min()) for c in counts), max(int(c.max()) for c in counts)) if counts else (0, 0)

    @property
    def label_counts(self) -> dict[str, int]:
        """Number of molecules that have each label."""
        return {name: entry.count for name, entry in self.manifest.labels.items()}

    @property
    def bond_counts(self) -> dict[str, int]:
        """Number of molecules whose bonds are known, and of those whose bond orders are."""
        return {
            "bonds": sum(int(s.has_bonds.sum()) for s in self.shards),
            "bond_orders": sum(int(s.has_bond_orders.sum()) for s in self.shards),
        }

    def gather(self, indices: Int[np.ndarray, " n_chosen"]) -> Batch:
        """Return the given molecules as a batch, in the given order; no molecules give an empty batch.

        Positions and per-atom labels are float32, per-molecule labels float64. ``ids`` are the indices. There
        is a bond graph if any molecule of the store has bonds on record.

        Raises:
            IndexError: an index is negative or beyond the store.
        """
        located = self._locate(indices)
        rows, counts = self._atoms.gather(located)
        flags = self._flags.gather(located)
        return Batch(
            atomic_numbers=rows.pop("atomic_numbers").long(),
            positions=rows.pop("positions"),
            molecule=torch.from_numpy(np.repeat(np.arange(len(indices)), counts)),
            n_molecules=len(indices),
            labels={**rows, **self._labels.gather(located)},
            flags=flags,
            ids=torch.from_numpy(indices.astype(np.int64)),
            topology=None if self._topology is None else self._topology.gather(located, counts, flags),
        )

    def _locate(self, indices: Int[np.ndarray, " n_chosen"]) -> Located:
        indices = indices.astype(np.int64, copy=False)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices {indices.min()} to {indices.max()} of a store of {len(self)} molecules")
        return locate(self._first, indices)


class StoreWriter:
    """Writes a store shard by shard; killed at any moment, it resumes after the last shard written.

    A shard is written beside the store and moved in; the manifest, replaced last, decides what exists. Shards may be
    as small as the work worth losing: ``finish`` joins them. One process writes a store; to write in parallel, make
    the molecules in parallel.
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
        """Begin a new store, or go on with an unfinished one.

        Args:
            path: Directory of the store; made if it is not there.
            level_of_theory: Of the labels, such as "GFN2-xTB"; empty if there are none.
            source: Where the molecules came from.
            settings: How they were made: anything JSON can hold.
            units: Of labels other than energies and forces, by name; units of the package. On resuming, all these must
                be the same as before.

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
        """The directory of the store."""
        return self._path

    @property
    def n_shards(self) -> int:
        """Shards safely on the disk: where to go on after an interruption."""
        return len(self._manifest.shards)

    @property
    def manifest(self) -> Manifest:
        """The manifest so far."""
        return self._manifest

    def write_shard(self, molecules: Sequence[Molecule], skipped: Mapping[str, int] | None = None) -> None:
        """Write the next shard, in full or not at all; no molecules are fine (all of them skipped).

        Args:
            molecules: The molecules of the shard.
            skipped: Molecules left out since the last shard, counted by reason.

        Raises:
            OSError: it could not be written; the shards before it are safe and the store can be resumed.
        """
        self.write_arrays(flatten(molecules), skipped)

    def write_arrays(self, arrays: FlatArrays, skipped: Mapping[str, int] | None = None) -> None:
        """Write the next shard from arrays that are made already; otherwise as :meth:`write_shard`."""
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
        """Mark the store complete as it is and open it: needs no memory and no room."""
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
        """Delete the unfinished store: what it was made from turned out to be damaged."""
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
        """Delete what a killed writer left: everything of ours that the manifest does not name."""
        known = {MANIFEST_FILE, *(shard.name for shard in self._manifest.shards)}
        for entry in self._path.iterdir():
            if entry.name in known or not entry.name.startswith((TEMPORARY, "shard-")):
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _cleaned_up(self, error: OSError, what: str) -> OSError:
        """Delete what could not be finished and return the error to raise."""
        self._remove_leftovers()
        return OSError(
            error.errno,
            f"{self._path}: could not write {what} ({error.strerror or error}). The {self.n_shards} shards before are "
            "safe; make room and run the same command again to resume",
        )


def _groups(shards: Sequence[ShardEntry]) -> list[tuple[ShardEntry, ...]]:
    """Cut the list of shards into runs no larger than the limits of joining (or one shard that is)."""
    groups: list[tuple[ShardEntry, ...]] = []
    for shard in shards:
        joined = (*groups[-1], shard) if groups else (shard,)
        few_molecules = sum(s.n_molecules for s in joined) <= MERGED_MOLECULES
        if groups and few_molecules and sum(s.n_atoms for s in joined) <= MERGED_ATOMS:
            groups[-1] = joined
        else:
            groups.append((shard,))
    return groups
