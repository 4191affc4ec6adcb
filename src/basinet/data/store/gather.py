"""Gather the rows of many molecules from flat arrays, without a Python loop over molecules.

Only the table of shards is in memory; the arrays stay on the disk. The cost of a gather beside the copying grows with
the number of shards it touches, so a loader gathers many batches at once.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, Shaped
from torch import Tensor

from basinet.data.store.arrays import FlatArrays
from basinet.structures.batch_topology import BatchTopology, lay_out

CACHE_LINE = 64
"""Bytes."""


def spans(starts: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]) -> Int[Tensor, " n_rows"]:
    """Return the row numbers ``starts[i], ..., starts[i] + counts[i] - 1`` for each ``i``, end to end.

    They are int32 where they fit, which is half the memory to write and to read.
    """
    first = np.cumsum(counts) - counts
    largest = max(int((starts + counts).max()), int(counts.sum())) if len(starts) else 0
    kind = np.int32 if largest < 2**31 else np.int64
    rows = np.repeat((starts - first).astype(kind), counts)
    rows += np.arange(len(rows), dtype=kind)
    return torch.from_numpy(rows)


class Piece(NamedTuple):
    """The requested molecules of one shard."""

    shard: int
    rows: Int64[np.ndarray, " n"]
    """Indices within the shard, ascending if there are several shards."""
    first: int
    """Index of the first of them among all requested molecules, sorted."""

    @property
    def part(self) -> slice:
        """Slice of them among all requested molecules, sorted."""
        return slice(self.first, self.first + len(self.rows))


class Selection(NamedTuple):
    """Shards and indices of requested molecules."""

    n: int
    order: Int64[np.ndarray, " n"] | None
    """Permutation that sorts the molecules by index; ``None`` for a single shard."""
    pieces: Sequence[Piece]

    def in_order(self, values: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
        """Return values of the sorted molecules in the order of the request."""
        if self.order is None:
            return values
        unsorted = np.empty_like(values)
        unsorted[self.order] = values
        return unsorted


def select(first: Int64[np.ndarray, " n_shards_plus_1"], molecules: Int64[np.ndarray, " n"]) -> Selection:
    """Return the shards and indices of molecules, if shard ``s`` holds those from ``first[s]`` to ``first[s + 1]``."""
    if len(first) == 2:
        return Selection(len(molecules), None, [Piece(0, molecules, 0)])
    order = np.argsort(molecules)
    ascending = molecules[order]
    cuts = np.searchsorted(ascending, first)
    used = np.flatnonzero(np.diff(cuts)).tolist()
    ends = cuts.tolist()
    pieces = [Piece(s, ascending[ends[s] : ends[s + 1]] - first[s], ends[s]) for s in used]
    return Selection(len(molecules), order, pieces)


class MoleculeValues:
    """Arrays with one value for each molecule in several shards, seen as one."""

    def __init__(
        self, shards: Sequence[Mapping[str, Shaped[np.ndarray, " _"]]], absent: Mapping[str, bool | float]
    ) -> None:
        self._shards = shards
        self._absent = absent
        """Every column, with its value in a shard that lacks it."""

    def gather(self, selection: Selection) -> dict[str, Tensor]:
        """Return the values of the molecules in every column."""
        found: dict[str, Tensor] = {}
        for name, absent in self._absent.items():
            values = np.full(selection.n, absent)
            for piece in selection.pieces:
                column = self._shards[piece.shard].get(name)
                if column is not None:
                    values[piece.part] = column[piece.rows]
            found[name] = torch.from_numpy(selection.in_order(values))
        return found


class MoleculeRows:
    """Arrays with several rows per molecule (atoms, bonds) in several shards, as one.

    A column that a shard lacks reads as NaN there, so only float columns may be absent.
    """

    def __init__(
        self,
        offsets: Sequence[Int64[np.ndarray, " _"]],
        columns: Sequence[Mapping[str, Shaped[np.ndarray, "..."]]],
    ) -> None:
        self._offsets = offsets
        self._shards = [{name: torch.from_numpy(array) for name, array in shard.items()} for shard in columns]
        self._like: dict[str, Tensor] = {}
        for shard in self._shards:
            self._like = {**shard, **self._like}

    def counts(self, selection: Selection) -> Int64[np.ndarray, " n"]:
        """Return the number of rows of each molecule."""
        return selection.in_order(self._spans(selection)[1])

    def gather(self, selection: Selection) -> tuple[dict[str, Tensor], Int64[np.ndarray, " n"]]:
        """Return the rows of the molecules in every column, and how many each of them has."""
        starts, counts = self._spans(selection)
        rows = spans(starts, counts)
        if selection.order is None:
            return {name: _take(column, rows) for name, column in self._shards[0].items()}, counts
        ends = np.cumsum(counts)
        first = selection.in_order(ends - counts)
        counts = selection.in_order(counts)
        back = spans(first, counts)
        gathered: dict[str, Tensor] = {}
        for name, like in self._like.items():
            buffer = like.new_empty((len(rows), *like.shape[1:]))
            for piece in selection.pieces:
                begin = int(ends[piece.first - 1]) if piece.first else 0
                part = slice(begin, int(ends[piece.part.stop - 1]))
                self._read(name, piece.shard, rows[part], buffer[part])
            gathered[name] = buffer.index_select(0, back)
        return gathered, counts

    def _spans(self, selection: Selection) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Return the first row within its shard, and the number of rows, of each molecule, sorted by place."""
        starts, counts = np.empty(selection.n, dtype=np.int64), np.empty(selection.n, dtype=np.int64)
        for piece in selection.pieces:
            offsets = self._offsets[piece.shard]
            starts[piece.part] = begin = offsets[piece.rows]
            counts[piece.part] = offsets[piece.rows + 1] - begin
        return starts, counts

    def _read(self, name: str, shard: int, rows: Int[Tensor, " n"], out: Tensor) -> None:
        column = self._shards[shard].get(name)
        if column is None:
            out.fill_(torch.nan)
        else:
            _take(column, rows, out)


def _take(column: Tensor, rows: Int[Tensor, " n"], out: Tensor | None = None) -> Tensor:
    """Return rows of a column.

    Copying row by row waits for the memory at each molecule. Reading one number of each cache line first, in a loop so
    tight that many reads are in flight at once, halves the time for data larger than the caches.
    """
    if column.ndim > 1:
        row = column[0:1].numel() * column.element_size()
        column.flatten(1)[:, 0].index_select(0, rows[:: max(1, CACHE_LINE // max(1, row))])
    return torch.index_select(column, 0, rows, out=out)


class TopologyColumns:
    """Bonds and rotors of several shards, as one."""

    def __init__(self, shards: Sequence[FlatArrays]) -> None:
        self._bonds = MoleculeRows(
            [s.bond_offsets for s in shards], [{"bonds": s.bonds, "bond_orders": s.bond_orders} for s in shards]
        )
        self._rotors = MoleculeRows([s.rotor_offsets for s in shards], [{"rotors": s.rotors} for s in shards])
        self._moved = MoleculeRows([s.moved_offsets for s in shards], [{"moved": s.moved} for s in shards])

    def gather(
        self, selection: Selection, atoms_per_molecule: Int64[np.ndarray, " n"], flags: Mapping[str, Tensor]
    ) -> BatchTopology:
        """Return the bond graph of the molecules, given the flags of known bonds and rotors."""
        bonds, n_bonds = self._bonds.gather(selection)
        rotors, n_rotors = self._rotors.gather(selection)
        moved, n_moved = self._moved.gather(selection)
        return lay_out(
            first_atom=torch.from_numpy(np.cumsum(atoms_per_molecule) - atoms_per_molecule),
            n_bonds=torch.from_numpy(n_bonds),
            n_rotors=torch.from_numpy(n_rotors),
            n_moved=torch.from_numpy(n_moved),
            has_bonds=flags["has_bonds"],
            has_rotors=flags["has_rotors"],
            **bonds,
            **rotors,
            **moved,
        )


def flag_columns(shard: FlatArrays) -> dict[str, Bool[np.ndarray, " n_molecules"]]:
    """Return the columns of a shard that are flags of a batch."""
    return {
        "is_equilibrium": shard.is_equilibrium,
        "has_bonds": shard.has_bonds,
        "has_rotors": shard.has_bond_orders,
        **{f"has_{name}": column for name, column in shard.has.items()},
    }
