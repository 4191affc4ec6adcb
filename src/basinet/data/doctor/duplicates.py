"""The same conformation twice, or nearly: within one store, or in two.

Two conformations of the same atoms are compared by what no turning, shifting or reordering of atoms changes, first the
distances from the centre, then all distances, each sorted for each element (or pair of elements). A mirror image counts
as the same: it has the same energy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.spatial import KDTree

from basinet.data.store.store import MoleculeStore
from basinet.structures.segment import sum_per_molecule

EXACT = 2e-4
"""Å. Copies differ by less: positions are float32, and files have four digits and more."""
NEAR = 0.02
"""Å. Conformations with all distances this close have energies that differ by some meV."""
SAMPLE = 200_000
"""Molecules of a store that are compared; of more, a random part."""
MAX_ATOMS = 500
BATCH = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Molecules with a like conformation, each with the one most like it."""

    rows: Int64[np.ndarray, " n_found"]
    """Molecules of the store."""
    partners: Int64[np.ndarray, " n_found"]
    """Of the same store, or of the other one."""
    differences: Float64[np.ndarray, " n_found"]
    """Å; the largest difference of two sorted distances, below ``NEAR``."""
    n_compared: int
    n_partners: int
    """Molecules they were compared with."""

    @property
    def n_exact(self) -> int:
        """Molecules that are a copy of another one."""
        return int((self.differences < EXACT).sum())

    @property
    def n_near(self) -> int:
        """Molecules that are nearly the same as another one, and not a copy."""
        return len(self.rows) - self.n_exact


def find_duplicates(store: MoleculeStore, other: MoleculeStore | None = None) -> Duplicates:
    """Return the molecules of a store that have a like conformation in it, or in another store.

    Stores of more than ``SAMPLE`` molecules are sampled, so the counts are then of the sample.
    """
    mine = _sample(store)
    theirs = mine if other is None else _sample(other)
    groups = _by_composition(store, mine)
    other_groups = groups if other is None else _by_composition(other, theirs)
    rows, partners, differences = ([np.zeros(0, dtype=t)] for t in (np.int64, np.int64, np.float64))
    for key, members in groups.items():
        candidates = other_groups.get(key)
        if candidates is None or (other is None and len(members) < 2):
            continue
        found = _nearest(store, members, store if other is None else other, candidates, same=other is None)
        for kept, new in zip((rows, partners, differences), found, strict=True):
            kept.append(new)
    order = np.argsort(np.concatenate(rows), kind="stable")
    return Duplicates(
        rows=np.concatenate(rows)[order],
        partners=np.concatenate(partners)[order],
        differences=np.concatenate(differences)[order],
        n_compared=len(mine),
        n_partners=len(theirs),
    )


def _sample(store: MoleculeStore) -> Int64[np.ndarray, " n"]:
    usable = np.flatnonzero((store.atoms_per_molecule > 1) & (store.atoms_per_molecule <= MAX_ATOMS))
    if len(usable) <= SAMPLE:
        return usable
    return np.sort(np.random.default_rng(0).choice(usable, SAMPLE, replace=False))


def _by_composition(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> dict[tuple[int, int], np.ndarray]:
    """Return the molecules of each sum formula."""
    weight = np.random.default_rng(1).integers(1, 2**40, 128)  # sums of these tell sum formulas apart
    keys = np.zeros(len(rows), dtype=np.int64)
    for first in range(0, len(rows), BATCH):
        batch = store.gather(rows[first : first + BATCH])
        weights = batch.positions.new_tensor(weight, dtype=torch.float64)[batch.atomic_numbers]
        keys[first : first + BATCH] = sum_per_molecule(weights, batch).numpy()
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    sizes = store.atoms_per_molecule
    return {(int(keys[g[0]]), int(sizes[rows[g[0]]])): rows[g] for g in np.split(order, cuts) if len(g)}


def _nearest(
    store: MoleculeStore,
    members: Int64[np.ndarray, " n"],
    other: MoleculeStore,
    candidates: Int64[np.ndarray, " m"],
    *,
    same: bool,
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Return the members with a like candidate, that candidate, and how far they are from alike."""
    tree = KDTree(_radii(other, candidates))
    mine = _radii(store, members)
    # Largest difference of the radii: atoms that all move by less than d have radii that differ by less than 2 d.
    found, index = map(np.asarray, tree.query(mine, k=2 if same else 1, p=np.inf, distance_upper_bound=NEAR))
    if same:  # a molecule finds itself first, or second behind a copy
        own = index[:, 0] == np.arange(len(members))
        found, index = np.where(own, found[:, 1], found[:, 0]), np.where(own, index[:, 1], index[:, 0])
    near = np.flatnonzero(np.isfinite(found))
    rows, partners = members[near], candidates[index[near]]
    differences = _differences(store, rows, other, partners)
    like = differences < NEAR
    return rows[like], partners[like], differences[like]


def _differences(
    store: MoleculeStore, rows: Int64[np.ndarray, " n"], other: MoleculeStore, partners: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return the largest difference of sorted distances, pair by pair of molecules with the same atoms."""
    parts = [np.zeros(0)]
    for first in range(0, len(rows), BATCH // 20):
        part = slice(first, first + BATCH // 20)
        both = (_distances(store, rows[part]), _distances(other, partners[part]))
        parts.append(np.abs(both[0] - both[1]).max(1).astype(np.float64))
    return np.concatenate(parts)


def _blocks(
    store: MoleculeStore, rows: Int64[np.ndarray, " n"], size: int
) -> Iterator[tuple[Int64[np.ndarray, "b n_atoms"], Float32[np.ndarray, "b n_atoms 3"]]]:
    """Yield atomic numbers and positions of molecules with equal numbers of atoms, atoms sorted by element."""
    for first in range(0, len(rows), BATCH):
        batch = store.gather(rows[first : first + BATCH])
        numbers = batch.atomic_numbers.numpy().reshape(-1, size)
        positions = batch.positions.numpy().reshape(-1, size, 3)
        order = np.argsort(numbers, axis=1, kind="stable")
        yield np.take_along_axis(numbers, order, 1), np.take_along_axis(positions, order[:, :, None], 1)


def _radii(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n n_atoms"]:
    """Return the distances from the centre, sorted within each element."""
    size = int(store.atoms_per_molecule[rows[0]])
    parts = [
        _sorted_within(np.linalg.norm(positions - positions.mean(1, keepdims=True), axis=-1), numbers[0])
        for numbers, positions in _blocks(store, rows, size)
    ]
    return np.concatenate(parts)


def _distances(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n n_pairs"]:
    """Return the distances of all pairs of atoms, sorted within each pair of elements."""
    size = int(store.atoms_per_molecule[rows[0]])
    i, j = np.triu_indices(size, k=1)
    parts: list[np.ndarray] = []
    for numbers, positions in _blocks(store, rows, size):
        kind = numbers[0, i] * 128 + numbers[0, j]
        order = np.argsort(kind, kind="stable")
        lengths = np.linalg.norm(positions[:, i[order]] - positions[:, j[order]], axis=-1)
        parts.append(_sorted_within(lengths, kind[order]))
    return np.concatenate(parts)


def _sorted_within(values: Float32[np.ndarray, "n m"], kinds: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "n m"]:
    """Sort the columns of each kind row by row; columns of one kind are side by side."""
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    for first, last in _spans(edges):
        values[:, first:last] = np.sort(values[:, first:last], axis=1)
    return values


def _spans(edges: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(edges[:-1], edges[1:], strict=True))
