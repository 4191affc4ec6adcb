r"""Find the conformations and compounds that two data sets share.

A conformation is indexed by its sum formula and three numbers that are invariant to rotation, translation, reflection
and order of atoms: the weighted moments of the distances :math:`d_i` from the centre,

.. math:: m_k = \Big( \frac{\sum_i \sqrt{z_i}\, d_i^k}{\sum_i \sqrt{z_i}} \Big)^{1/k}, \qquad k = 1, 2, 3,

on a grid. Numbers near the edge of a cell are looked up in the cells on both sides, so rounding hides no copy.
Candidates are compared by all distances, sorted for each pair of elements. The index of one set takes 16 bytes per
molecule; the other set is read in chunks.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64

from basinet.data.chemistry.compounds import compound
from basinet.data.chemistry.conformers import GenerationError
from basinet.data.doctor.duplicates import EXACT, formulas
from basinet.data.store.store import MoleculeStore
from basinet.structures import Batch
from basinet.structures.segment import sum_per_molecule

CELL = 1e-3
"""Spacing of the grid, Å."""
CHUNK = 20_000
"""Molecules read at once."""
PAIRS = 2_000_000
"""Distances compared at once."""
MAX_CANDIDATES = 8
"""Largest number of molecules compared in one cell; more are alike anyway, such as frames of a diatomic."""
N_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """Conformations and compounds in both of two data sets."""

    rows: Int64[np.ndarray, " n_found"]
    """Molecules of the first set that are copies of one of the second, ascending."""
    partners: Int64[np.ndarray, " n_found"]
    """A molecule of the second set that each is a copy of."""
    n_compared: int
    """Molecules of the first set with two atoms or more."""
    compounds: tuple[str, ...]
    """Compounds in both: SMILES without stereochemistry and isotopes."""
    n_compounds: int
    """Different SMILES in the first set; 0 if it has none."""
    n_unnamed: tuple[int, int]
    """Molecules of each set without SMILES, whose compounds are not compared."""

    def __str__(self) -> str:
        copies = f"{len(self.rows):,} of {self.n_compared:,} conformations are in both"
        if len(self.rows):
            pairs = zip(self.rows[:N_EXAMPLES].tolist(), self.partners[:N_EXAMPLES].tolist(), strict=True)
            copies += f" ({', '.join(f'{i} and {j}' for i, j in pairs)}{_more(len(self.rows))})"
        if not self.n_compounds:
            return f"{copies}; compounds not compared (no SMILES)"
        compounds = f"{len(self.compounds):,} of {self.n_compounds:,} compounds are in both"
        if self.compounds:
            compounds += f" ({', '.join(self.compounds[:N_EXAMPLES])}{_more(len(self.compounds))})"
        unnamed = f"; {sum(self.n_unnamed):,} conformations have no SMILES" if sum(self.n_unnamed) else ""
        return f"{copies}; {compounds}{unnamed}"


def find_leaks(
    store: MoleculeStore,
    other: MoleculeStore,
    rows: Int64[np.ndarray, " n"] | None = None,
    other_rows: Int64[np.ndarray, " m"] | None = None,
    *,
    compounds: bool = True,
) -> Leaks:
    """Return the conformations and compounds that two data sets share.

    Args:
        store: the first set.
        other: the second set, whose index is kept in memory.
        rows: molecules of the first set to compare; ``None``: all.
        other_rows: molecules of the second set.
        compounds: compare the compounds too.
    """
    rows = np.arange(len(store)) if rows is None else rows
    other_rows = np.arange(len(other)) if other_rows is None else other_rows
    found, partners, n_compared = _copies(store, rows, other, other_rows)
    mine, n_unnamed = _named(store, rows) if compounds else ({}, len(rows))
    theirs, n_unnamed_other = _named(other, other_rows) if compounds else ({}, len(other_rows))
    return Leaks(
        rows=found,
        partners=partners,
        n_compared=n_compared,
        compounds=tuple(_common(mine, theirs)),
        n_compounds=len(mine) if theirs else 0,
        n_unnamed=(n_unnamed, n_unnamed_other),
    )


class _Shapes(NamedTuple):
    """Keys of some molecules in the index."""

    rows: Int64[np.ndarray, " n"]
    formula: Int64[np.ndarray, " n"]
    moments: Float64[np.ndarray, "n 3"]

    def cells(self, shift: Sequence[float]) -> Int64[np.ndarray, " n"]:
        """Return a hash of the sum formula and of the cell of the moments after a shift, Å."""
        key = self.formula.copy()
        for column in np.floor((self.moments + np.array(shift)) / CELL).astype(np.int64).T:
            key = (key ^ column) * 0x100000001B3  # wraps around, as a hash may
        return key


def _shapes(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> Iterator[_Shapes]:
    """Yield the keys of molecules of two atoms or more."""
    for first in range(0, len(rows), CHUNK):
        chosen = rows[first : first + CHUNK]
        chosen = chosen[store.atom_counts(chosen) > 1]
        batch = store.gather(chosen)
        yield _Shapes(chosen, formulas(batch), _moments(batch))


def _moments(batch: Batch) -> Float64[np.ndarray, "n_molecules 3"]:
    weight = batch.atomic_numbers.double().sqrt()
    total = sum_per_molecule(weight, batch)
    positions = batch.positions.double()
    centre = sum_per_molecule(positions, batch) / batch.atoms_per_molecule[:, None]
    distance = (positions - centre[batch.molecule]).square().sum(-1).sqrt()
    powers = [(sum_per_molecule(weight * distance**k, batch) / total) ** (1 / k) for k in (1, 2, 3)]
    return torch.stack(powers, dim=1).numpy()


def _copies(
    store: MoleculeStore, rows: Int64[np.ndarray, " n"], other: MoleculeStore, other_rows: Int64[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"], int]:
    """Return the molecules of the first set with a copy in the second, these copies, and the number compared."""
    empty = np.zeros(0, dtype=np.int64)
    index = [(shapes.cells((0.0, 0.0, 0.0)), shapes.rows) for shapes in _shapes(other, other_rows)]
    keys, places = (np.concatenate([empty, *parts]) for parts in zip(*index, strict=True)) if index else (empty, empty)
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    found, partners, n_compared = [empty], [empty], 0
    for shapes in _shapes(store, rows):
        n_compared += len(shapes.rows)
        candidates = _candidates(shapes, keys)
        mine, theirs = shapes.rows[candidates[:, 0]], places[candidates[:, 1]]
        alike = _differences(store, mine, other, theirs) < EXACT
        unique, first = np.unique(mine[alike], return_index=True)
        found.append(unique)
        partners.append(theirs[alike][first])
    order = np.argsort(np.concatenate(found), kind="stable")
    return np.concatenate(found)[order], np.concatenate(partners)[order], n_compared


def _candidates(shapes: _Shapes, keys: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, "n_candidates 2"]:
    """Return pairs of a molecule and a place in the sorted keys that may be copies."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    if not len(keys):
        return pairs[0]
    for shift in product((-EXACT, EXACT), repeat=3):  # the moments of copies differ by less than their distances do
        wanted = shapes.cells(shift)
        place = np.searchsorted(keys, wanted)
        for _ in range(MAX_CANDIDATES):
            hit = np.flatnonzero(keys[np.minimum(place, len(keys) - 1)] == wanted)
            hit = hit[place[hit] < len(keys)]
            if not len(hit):
                break
            pairs.append(np.stack([hit, place[hit]], axis=1))
            place = place + 1
    return np.unique(np.concatenate(pairs), axis=0)


def _differences(
    store: MoleculeStore, rows: Int64[np.ndarray, " n"], other: MoleculeStore, partners: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return the largest difference of sorted distances of each pair of molecules with the same sum formula, Å."""
    differences = np.full(len(rows), np.inf)
    sizes = store.atom_counts(rows)
    for size in np.unique(sizes).tolist():
        members = np.flatnonzero((sizes == size) & (other.atom_counts(partners) == size))
        at_once = max(1, PAIRS // (size * size))
        for first in range(0, len(members), at_once):
            part = members[first : first + at_once]
            mine = _sorted_distances(store.gather(rows[part]), size)
            differences[part] = np.abs(mine - _sorted_distances(other.gather(partners[part]), size)).max(1)
    return differences


def _sorted_distances(batch: Batch, size: int) -> Float64[np.ndarray, "n n_pairs"]:
    """Return the distances of all pairs of atoms, Å, with an offset for each pair of elements, sorted."""
    i, j = np.triu_indices(size, k=1)
    numbers = batch.atomic_numbers.numpy().reshape(-1, size)
    positions = batch.positions.numpy().reshape(-1, size, 3).astype(np.float64)
    low, high = np.minimum(numbers[:, i], numbers[:, j]), np.maximum(numbers[:, i], numbers[:, j])
    lengths = np.sqrt(np.square(positions[:, i] - positions[:, j]).sum(-1))
    return np.sort(lengths + 1e4 * (128 * low + high), axis=1)


class _Compound(NamedTuple):
    """A compound as a store writes it."""

    smiles: str
    formula: int


def _named(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> tuple[dict[str, _Compound], int]:
    """Return the SMILES of a store with their sum formulas, and the number of molecules without SMILES."""
    is_chosen = np.zeros(len(store), dtype=bool)
    is_chosen[rows] = True
    first: dict[str, int] = {}
    n_unnamed, before = 0, 0
    for shard in store.shards:
        of_shard = is_chosen[before : before + shard.n_molecules]
        for row, smiles in enumerate(shard.smiles.to_list() if of_shard.any() else []):
            if not of_shard[row]:
                continue
            if smiles:
                first.setdefault(smiles, before + row)
            else:
                n_unnamed += 1
        before += shard.n_molecules
    places = np.fromiter(first.values(), dtype=np.int64, count=len(first))
    keys = [formulas(store.gather(places[n : n + CHUNK])).tolist() for n in range(0, len(places), CHUNK)]
    formula = [key for part in keys for key in part]
    return {s: _Compound(s, key) for s, key in zip(first, formula, strict=True)}, n_unnamed


def _common(mine: dict[str, _Compound], theirs: dict[str, _Compound]) -> list[str]:
    """Return the canonical compounds in both; only those with a shared sum formula are canonicalised."""
    shared = {c.formula for c in mine.values()} & {c.formula for c in theirs.values()}
    names = [{known_compound(s) for s, c in named.items() if c.formula in shared} for named in (mine, theirs)]
    return sorted(names[0] & names[1])


def canonical_names(stores: Sequence[MoleculeStore]) -> list[dict[str, str]]:
    """Return the canonical SMILES of the compounds of each store whose sum formula is in another store too."""
    if len(stores) < 2:
        return [{} for _ in stores]
    named = [_named(store, np.arange(len(store)))[0] for store in stores]
    count = Counter(formula for of_store in named for formula in {c.formula for c in of_store.values()})
    return [{s: known_compound(s) for s, c in of_store.items() if count[c.formula] > 1} for of_store in named]


def known_compound(smiles: str) -> str:
    """Return the canonical SMILES of a compound, or ``smiles`` if it does not parse."""
    try:
        return compound(smiles)
    except GenerationError:
        return smiles


def _more(n: int) -> str:
    return " ..." if n > N_EXAMPLES else ""
