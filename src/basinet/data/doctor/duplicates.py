"""Find equal and nearly equal conformations within one store or in two.

Conformations of the same atoms are compared by quantities that are invariant to rotation, translation and order of
atoms: distances from the centre, then all distances, sorted for each element or pair of elements. A mirror image counts
as equal: it has the same energy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.spatial import KDTree

from basinet.data.store.store import MoleculeStore
from basinet.structures import Batch
from basinet.structures.segment import sum_per_molecule

EXACT = 2e-4
"""Largest difference of copies, Å: positions are float32, and files have at least four digits."""
NEAR = 0.02
"""Largest difference of nearly equal conformations, Å; their energies differ by some meV."""
SAMPLE = 200_000
"""Largest number of molecules of a store that are compared; more are sampled."""
MAX_ATOMS = 500
BATCH = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Molecules with a similar conformation, each with the most similar one."""

    rows: Int64[np.ndarray, " n_found"]
    """Molecules of the store."""
    partners: Int64[np.ndarray, " n_found"]
    """Most similar molecule, in the same store or the other one."""
    differences: Float64[np.ndarray, " n_found"]
    """Largest difference of two sorted distances, Å; below ``NEAR``."""
    n_compared: int
    n_partners: int
    """Molecules compared with."""

    @property
    def n_exact(self) -> int:
        """Number of copies."""
        return int((self.differences < EXACT).sum())

    @property
    def n_near(self) -> int:
        """Number of nearly equal molecules that are no copies."""
        return len(self.rows) - self.n_exact


def find_duplicates(store: MoleculeStore, other: MoleculeStore | None = None) -> Duplicates:
    """Return the molecules of a store with a similar conformation in it, or in another store.

    Stores of more than ``SAMPLE`` molecules are sampled; the counts are those of the sample.
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


def formulas(batch: Batch) -> Int64[np.ndarray, " n_molecules"]:
    """Return a number for the sum formula of each molecule, the same in all batches."""
    weights = torch.from_numpy(np.random.default_rng(1).integers(1, 2**40, 128)).double()  # their sums are exact
    return sum_per_molecule(weights[batch.atomic_numbers], batch).long().numpy()


def _by_composition(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> dict[tuple[int, int], np.ndarray]:
    """Return the molecules of each sum formula."""
    parts = [formulas(store.gather(rows[first : first + BATCH])) for first in range(0, len(rows), BATCH)]
    keys = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
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
    """Return the members with a similar candidate, that candidate, and their difference."""
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
    """Return the largest difference of sorted distances of each pair of molecules with the same atoms."""
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
    """Sort each row within the columns of each kind; columns of one kind are adjacent."""
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    for first, last in pairwise(edges):
        values[:, first:last] = np.sort(values[:, first:last], axis=1)
    return values
