"""Rows of many molecules taken out of flat arrays at once, without a Python loop over molecules."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from basinet.data.arrays import FlatArrays
from basinet.structures.batch_topology import BatchTopology, lay_out


def spans(starts: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]) -> Int64[Tensor, " n_rows"]:
    """Return the row numbers ``starts[i], ..., starts[i] + counts[i] - 1`` for each ``i``, end to end."""
    first = np.cumsum(counts) - counts
    rows = np.repeat(starts - first, counts)
    rows += np.arange(len(rows))
    return torch.from_numpy(rows)


class MoleculeColumns:
    """Arrays with a run of rows for each molecule (its atoms, its bonds) in several shards, seen as one.

    A column that a shard lacks reads as NaN there, so only float columns may be absent.
    """

    def __init__(
        self,
        offsets: Sequence[Int64[np.ndarray, " _"]],
        columns: Sequence[Mapping[str, Shaped[np.ndarray, "..."]]],
    ) -> None:
        empty = np.zeros(0, dtype=np.int64)
        self.counts = np.concatenate([empty, *(np.diff(o) for o in offsets)])
        """Rows of each molecule."""
        self._starts = np.concatenate([empty, *(o[:-1] for o in offsets)])
        self._shard_ends = np.cumsum([len(o) - 1 for o in offsets])
        self._shards = [{name: torch.from_numpy(array) for name, array in shard.items()} for shard in columns]
        self._like: dict[str, Tensor] = {}
        for shard in self._shards:
            self._like = {**shard, **self._like}

    def shard_of(self, molecules: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the shard that holds each molecule."""
        return np.searchsorted(self._shard_ends, molecules, side="right")

    def gather(self, molecules: Int64[np.ndarray, " n"]) -> dict[str, Tensor]:
        """Return the rows of the given molecules in every column, in that order."""
        starts, counts = self._starts[molecules], self.counts[molecules]
        if len(self._shards) == 1:
            rows = spans(starts, counts)
            return {name: column.index_select(0, rows) for name, column in self._shards[0].items()}
        return self._gather_by_shard(self.shard_of(molecules), starts, counts)

    def _gather_by_shard(
        self, shard: Int64[np.ndarray, " n"], starts: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]
    ) -> dict[str, Tensor]:
        """Gather shard by shard into one buffer, then put the molecules back in the order asked for."""
        order = np.argsort(shard, kind="stable")
        rows = spans(starts[order], counts[order])
        ends = np.cumsum(np.bincount(shard, weights=counts, minlength=len(self._shards)).astype(np.int64))
        used = np.unique(shard)
        first = np.empty_like(starts)
        first[order] = np.cumsum(counts[order]) - counts[order]
        back = spans(first, counts)
        gathered: dict[str, Tensor] = {}
        for name, like in self._like.items():
            buffer = like.new_empty((len(rows), *like.shape[1:]))
            for s in used.tolist():
                part = slice(int(ends[s - 1]) if s else 0, int(ends[s]))
                self._read(name, s, rows[part], buffer[part])
            gathered[name] = buffer.index_select(0, back)
        return gathered

    def _read(self, name: str, shard: int, rows: Int64[Tensor, " n"], out: Tensor) -> None:
        column = self._shards[shard].get(name)
        if column is None:
            out.fill_(torch.nan)
        else:
            torch.index_select(column, 0, rows, out=out)


class TopologyColumns:
    """The bonds and rotors of several shards, seen as one."""

    def __init__(self, shards: Sequence[FlatArrays]) -> None:
        self._bonds = MoleculeColumns(
            [s.bond_offsets for s in shards], [{"bonds": s.bonds, "bond_orders": s.bond_orders} for s in shards]
        )
        self._rotors = MoleculeColumns([s.rotor_offsets for s in shards], [{"rotors": s.rotors} for s in shards])
        self._moved = MoleculeColumns([s.moved_offsets for s in shards], [{"moved": s.moved} for s in shards])
        self.has_bonds = np.concatenate([s.has_bonds for s in shards])
        """Molecules whose bonds are known."""
        self.has_rotors = np.concatenate([s.has_bond_orders for s in shards])
        """Molecules whose bond orders are known."""

    def gather(self, molecules: Int64[np.ndarray, " n"], atoms_per_molecule: Int64[np.ndarray, " n"]) -> BatchTopology:
        """Return the bond graph of the given molecules, in that order."""
        return lay_out(
            first_atom=torch.from_numpy(np.cumsum(atoms_per_molecule) - atoms_per_molecule),
            n_bonds=torch.from_numpy(self._bonds.counts[molecules]),
            n_rotors=torch.from_numpy(self._rotors.counts[molecules]),
            n_moved=torch.from_numpy(self._moved.counts[molecules]),
            has_bonds=torch.from_numpy(self.has_bonds[molecules]),
            has_rotors=torch.from_numpy(self.has_rotors[molecules]),
            **self._bonds.gather(molecules),
            **self._rotors.gather(molecules),
            **self._moved.gather(molecules),
        )
