"""Hold the bond graph of a batch: its bonds, and its rotors with the atoms each one moves."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from basinet.structures.molecule import Molecule
from basinet.structures.topology import rotor_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotors:
    """Rotatable bonds, sorted by molecule, as tables that turn all molecules of a batch at once.

    The rotors of one molecule are turned one after the other, because each one moves the axes of others; rotors of the
    same rank are turned together.
    """

    axis: Int[Tensor, "n_rotors 2"]
    """Atoms in the batch: (fixed atom, atom on the side that turns); the axis points from the first to the second."""
    rank: Int[Tensor, " n_rotors"]
    """Place among the rotors of its molecule, from 0."""
    moved_rotor: Int[Tensor, " n_moved"]
    """With ``moved_atom``: the pairs (rotor, atom it moves), sorted by rotor."""
    moved_atom: Int[Tensor, " n_moved"]

    @property
    def n_rotors(self) -> int:
        """Number of rotors of all molecules."""
        return len(self.axis)

    def select(self, keep: Bool[Tensor, " n_rotors"]) -> "Rotors":
        """Return some of the rotors; ranks keep their order within a molecule and may leave gaps."""
        number = torch.cumsum(keep, 0) - 1
        of_kept = keep[self.moved_rotor]
        return Rotors(
            axis=self.axis[keep],
            rank=self.rank[keep],
            moved_rotor=number[self.moved_rotor[of_kept]],
            moved_atom=self.moved_atom[of_kept],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTopology:
    """Bonds of a batch. A molecule without bonds on record is not one with zero bonds: see ``has_bonds``."""

    bonds: Int[Tensor, "n_bonds 2"]
    """Atoms in the batch, sorted by molecule; each bond once."""
    bond_orders: Float[Tensor, " n_bonds"]
    """1, 2, 3, 1.5 for aromatic; NaN where the source has none. float32 whatever the dtype of the positions."""
    has_bonds: Bool[Tensor, " n_molecules"]
    """Molecules whose bonds are known."""
    has_rotors: Bool[Tensor, " n_molecules"]
    """Molecules whose bond orders, and so rotors, are known; some have no rotor."""
    rotors: Rotors

    def heavy_rotors(self, atomic_numbers: Int[Tensor, " n_atoms"]) -> Rotors:
        """Return the rotors of the molecules without their hydrogens, as :func:`basinet.structures.topology.rotors`."""
        is_heavy = atomic_numbers > 1
        both = torch.cat([self.bonds, self.bonds.flip(1)])
        n_heavy = torch.zeros_like(atomic_numbers).index_add(0, both[:, 0], is_heavy[both[:, 1]].long())
        return self.rotors.select((is_heavy & (n_heavy > 1))[self.rotors.axis].all(1))

    def to(self, device: torch.device | str | None) -> "BatchTopology":
        """Move every tensor to ``device``."""
        return BatchTopology(
            bonds=self.bonds.to(device),
            bond_orders=self.bond_orders.to(device),
            has_bonds=self.has_bonds.to(device),
            has_rotors=self.has_rotors.to(device),
            rotors=Rotors(**{f.name: getattr(self.rotors, f.name).to(device) for f in dataclasses.fields(Rotors)}),
        )

    def select(
        self, index: Int[Tensor, " n_kept"], molecule: Int[Tensor, " n_atoms"], atoms_per_molecule: Int[Tensor, " _"]
    ) -> "BatchTopology":
        """Return the bond graph of the molecules ``index`` of the batch that ``molecule`` describes, in that order."""
        first = torch.cumsum(atoms_per_molecule, 0) - atoms_per_molecule
        kept = atoms_per_molecule[index]
        shift = torch.cumsum(kept, 0) - kept - first[index]
        n = len(atoms_per_molecule)
        bonds = Runs.of(torch.bincount(molecule[self.bonds[:, 0]], minlength=n), index)
        rotors = Runs.of(torch.bincount(molecule[self.rotors.axis[:, 0]], minlength=n), index)
        moved = Runs.of(torch.bincount(molecule[self.rotors.moved_atom], minlength=n), index)
        return BatchTopology(
            bonds=self.bonds[bonds.rows] + shift[bonds.place, None],
            bond_orders=self.bond_orders[bonds.rows],
            has_bonds=self.has_bonds[index],
            has_rotors=self.has_rotors[index],
            rotors=Rotors(
                axis=self.rotors.axis[rotors.rows] + shift[rotors.place, None],
                rank=self.rotors.rank[rotors.rows],
                moved_rotor=self.rotors.moved_rotor[moved.rows] + rotors.shift[moved.place],
                moved_atom=self.rotors.moved_atom[moved.rows] + shift[moved.place],
            ),
        )

    def split(self, molecules: Sequence[int], atoms: Sequence[int]) -> Iterator["BatchTopology"]:
        """Yield the bond graphs of consecutive batches.

        Args:
            molecules: where each batch begins, and where the last one ends.
            atoms: the same in atoms.
        """
        # Rows are not sorted by atom, but all rows of a molecule come before those of the next: that is enough here.
        ends = torch.tensor(atoms)
        bonds = torch.searchsorted(self.bonds[:, 0].contiguous(), ends).tolist()
        rotors = torch.searchsorted(self.rotors.axis[:, 0].contiguous(), ends).tolist()
        moved = torch.searchsorted(self.rotors.moved_rotor, torch.tensor(rotors)).tolist()
        for i in range(len(atoms) - 1):
            of_bonds, of_rotors = slice(bonds[i], bonds[i + 1]), slice(rotors[i], rotors[i + 1])
            of_moved = slice(moved[i], moved[i + 1])
            of_molecules = slice(molecules[i], molecules[i + 1])
            yield BatchTopology(
                bonds=self.bonds[of_bonds] - atoms[i],
                bond_orders=self.bond_orders[of_bonds],
                has_bonds=self.has_bonds[of_molecules],
                has_rotors=self.has_rotors[of_molecules],
                rotors=Rotors(
                    axis=self.rotors.axis[of_rotors] - atoms[i],
                    rank=self.rotors.rank[of_rotors],
                    moved_rotor=self.rotors.moved_rotor[of_moved] - rotors[i],
                    moved_atom=self.rotors.moved_atom[of_moved] - atoms[i],
                ),
            )


class Runs(NamedTuple):
    """Rows of chosen groups, taken out of groups that lie end to end."""

    rows: Int[Tensor, " n_rows"]
    """Row numbers, group after group."""
    place: Int[Tensor, " n_rows"]
    """Chosen group of each row."""
    shift: Int[Tensor, " n_chosen"]
    """Shift of the rows of each chosen group."""

    @staticmethod
    def of(count: Int[Tensor, " n_groups"], chosen: Int[Tensor, " n_chosen"]) -> "Runs":
        """Return the rows of the groups ``chosen``, of groups of ``count`` rows each."""
        kept = count[chosen]
        place = torch.repeat_interleave(torch.arange(len(chosen), device=count.device), kept)
        shift = torch.cumsum(kept, 0) - kept - (torch.cumsum(count, 0) - count)[chosen]
        return Runs(torch.arange(len(place), device=count.device) - shift[place], place, shift)


def lay_out(
    *,
    first_atom: Int[Tensor, " n_molecules"],
    bonds: Int[Tensor, "n_bonds 2"],
    bond_orders: Float[Tensor, " n_bonds"],
    n_bonds: Int[Tensor, " n_molecules"],
    rotors: Int[Tensor, "n_rotors 3"],
    n_rotors: Int[Tensor, " n_molecules"],
    moved: Int[Tensor, " n_moved"],
    n_moved: Int[Tensor, " n_molecules"],
    has_bonds: Bool[Tensor, " n_molecules"],
    has_rotors: Bool[Tensor, " n_molecules"],
) -> BatchTopology:
    """Return the bond graph of a batch from tables whose atoms are numbered within each molecule.

    ``rotors`` and ``moved`` are those of :func:`basinet.structures.topology.rotor_table`, end to end.
    """
    of_rotor = torch.repeat_interleave(first_atom, n_rotors)
    first_rotor = torch.repeat_interleave(torch.cumsum(n_rotors, 0) - n_rotors, n_rotors)
    number = torch.arange(len(rotors))
    return BatchTopology(
        bonds=bonds + torch.repeat_interleave(first_atom, n_bonds)[:, None],
        bond_orders=bond_orders.float(),
        has_bonds=has_bonds,
        has_rotors=has_rotors,
        rotors=Rotors(
            axis=rotors[:, :2] + of_rotor[:, None],
            rank=number - first_rotor,
            moved_rotor=torch.repeat_interleave(number, rotors[:, 2]),
            moved_atom=moved + torch.repeat_interleave(first_atom, n_moved),
        ),
    )


def collate_topology(molecules: Sequence[Molecule]) -> BatchTopology | None:
    """Return the bond graph of molecules laid end to end; ``None`` if no molecule has bonds on record."""
    if all(m.bonds is None for m in molecules):
        return None
    bonds = [_no_rows(2) if m.bonds is None else m.bonds for m in molecules]
    orders = [
        np.full(len(b), np.nan) if m.bond_orders is None else m.bond_orders
        for m, b in zip(molecules, bonds, strict=True)
    ]
    tables = [rotor_table(m.n_atoms, b, m.bond_orders) for m, b in zip(molecules, bonds, strict=True)]
    n_atoms = torch.tensor([m.n_atoms for m in molecules])
    return lay_out(
        first_atom=torch.cumsum(n_atoms, 0) - n_atoms,
        bonds=torch.from_numpy(np.concatenate(bonds)),
        bond_orders=torch.from_numpy(np.concatenate(orders)),
        n_bonds=torch.tensor([len(b) for b in bonds]),
        rotors=torch.from_numpy(np.concatenate([table.rotors for table in tables])),
        n_rotors=torch.tensor([len(table.rotors) for table in tables]),
        moved=torch.from_numpy(np.concatenate([table.moved for table in tables])),
        n_moved=torch.tensor([len(table.moved) for table in tables]),
        has_bonds=torch.tensor([m.bonds is not None for m in molecules]),
        has_rotors=torch.tensor([m.bond_orders is not None for m in molecules]),
    )


def _no_rows(width: int) -> np.ndarray:
    return np.zeros((0, width), dtype=np.int64)
