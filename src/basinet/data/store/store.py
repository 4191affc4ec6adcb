"""Read millions of molecules from disk, as batches at the speed of memory.

Layout::

    store/
    ├── manifest.json        contents and origin, with the size and hash of every file
    ├── shard-00000/         flat .npy arrays (see ``arrays.FlatArrays``), never pickled
    └── shard-00001/

Molecules are laid end to end in flat memory-mapped arrays because a batch is then a few vectorised takes.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers as number_of_symbol
from jaxtyping import Int, Int64

from basinet.data.store.arrays import FlatArrays, flatten
from basinet.data.store.gather import MoleculeRows, MoleculeValues, Selection, TopologyColumns, flag_columns, select
from basinet.data.store.manifest import Manifest, describe, with_label_units
from basinet.data.store.shards import read_manifest, read_shard, shard_name
from basinet.structures import Batch, Molecule


class MoleculeStore:
    """Molecules with their labels, by index; made by ``open``, ``from_molecules`` or ``StoreWriter.finish``.

    >>> from ase.build import molecule
    >>> water = molecule("H2O")
    >>> m = Molecule(atomic_numbers=water.numbers, positions=water.positions, labels={"energy": -14.2})
    >>> store = MoleculeStore.from_molecules([m, m])
    >>> store.gather(np.array([1, 0])).labels["energy"].tolist()
    [-14.2, -14.2]
    """

    def __init__(self, manifest: Manifest, shards: Sequence[FlatArrays]) -> None:
        self.manifest = manifest
        """Contents and origin of the data."""
        self.shards = tuple(shards)
        """Arrays, shard by shard."""
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
        """Return a store in memory with other arrays, the same origin, and further settings."""
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
        """Number of atoms of each molecule; :meth:`atom_counts` gives those of some, out of many millions."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(np.diff(s.offsets) for s in self.shards)])

    def atom_counts(self, indices: Int[np.ndarray, " n_chosen"]) -> Int64[np.ndarray, " n_chosen"]:
        """Return the number of atoms of the given molecules."""
        return self._atoms.counts(self._select(indices))

    @property
    def fingerprint(self) -> str:
        """Hash of all the data, equal in memory and on disk."""
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
        selection = self._select(indices)
        rows, counts = self._atoms.gather(selection)
        flags = self._flags.gather(selection)
        return Batch(
            atomic_numbers=rows.pop("atomic_numbers").long(),
            positions=rows.pop("positions"),
            molecule=torch.from_numpy(np.repeat(np.arange(len(indices)), counts)),
            n_molecules=len(indices),
            labels={**rows, **self._labels.gather(selection)},
            flags=flags,
            ids=torch.from_numpy(indices.astype(np.int64)),
            topology=None if self._topology is None else self._topology.gather(selection, counts, flags),
        )

    def _select(self, indices: Int[np.ndarray, " n_chosen"]) -> Selection:
        indices = indices.astype(np.int64, copy=False)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices {indices.min()} to {indices.max()} of a store of {len(self)} molecules")
        return select(self._first, indices)
