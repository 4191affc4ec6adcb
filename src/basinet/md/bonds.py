"""Find the bonds of molecules and measure how far they are stretched.

Tolerance and search by distance follow Fu et al., "Forces are not Enough" (TMLR 2023).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from basinet.md.dynamics import MDState
from basinet.structures.batch import Batch
from basinet.structures.molecule import Molecule

BOND_TOLERANCE = 0.5
"""Deviation from its reference length beyond which a bond is broken, Å (Fu et al., sec. 4)."""
BOND_SKIN = 0.3
"""Added to each covalent radius when bonds are found by distance, Å: the default of ASE's neighbour list, which the
benchmark uses. C-C counts as bonded below 2.12 Å, C-H below 1.67 Å, O-H below 1.57 Å."""
STRETCHED = "a bond broke"
"""Reason of a stop by :class:`BondStretch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bonds:
    """The bonds of all molecules of a batch, with their reference lengths."""

    pairs: Int64[Tensor, "n_bonds 2"]
    """Atom indices in the batch."""
    lengths: Float64[Tensor, " n_bonds"]
    """Å."""
    molecule: Int64[Tensor, " n_bonds"]
    """Molecule of each bond."""

    def replace_lengths(self, lengths: Float64[Tensor, " n_bonds"]) -> "Bonds":
        """Return a copy with other reference lengths, such as means over a data set."""
        return dataclasses.replace(self, lengths=lengths)

    def to(self, device: torch.device | str) -> "Bonds":
        """Return a copy on a device."""
        return Bonds(pairs=self.pairs.to(device), lengths=self.lengths.to(device), molecule=self.molecule.to(device))


def reference_bonds(molecules: Sequence[Molecule]) -> Bonds:
    """Return the bonds of collated molecules, with their present lengths.

    Molecules without bonds on record (``bonds is None``) have them found by distance.
    """
    pairs = [m.bonds if m.bonds is not None else bonds_by_distance(m) for m in molecules]
    first_atom = np.cumsum([0] + [m.n_atoms for m in molecules])
    lengths = [
        np.linalg.norm(m.positions[p[:, 0]] - m.positions[p[:, 1]], axis=1)
        for m, p in zip(molecules, pairs, strict=True)
    ]
    in_batch = [p + first for p, first in zip(pairs, first_atom[:-1], strict=True)]
    owner = np.repeat(np.arange(len(molecules)), [len(p) for p in pairs])
    return Bonds(
        pairs=torch.from_numpy(np.concatenate(in_batch)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        molecule=torch.from_numpy(owner),
    )


def bonds_by_distance(molecule: Molecule, skin: float = BOND_SKIN) -> Int64[np.ndarray, "n_bonds 2"]:
    """Return the pairs of atoms closer than the sum of their covalent radii, each enlarged by ``skin`` (Å).

    Radii of Cordero et al. (2008), the "natural cutoffs" of ASE. With the default skin a hydrogen bond below 1.57 Å
    counts as a bond, as in the benchmark.
    """
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    distance = np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    radius = covalent_radii[molecule.atomic_numbers] + skin
    bonded = distance < radius[first] + radius[second]
    return np.stack([first[bonded], second[bonded]], axis=1)


def bond_lengths(positions: Float[Tensor, "n_atoms 3"], bonds: Bonds) -> Float64[Tensor, " n_bonds"]:
    """Return the length of every bond, Å."""
    first, second = bonds.pairs.unbind(dim=1)
    return torch.linalg.vector_norm(positions[first].double() - positions[second].double(), dim=1)


def largest_deviation(batch: Batch, bonds: Bonds) -> Float64[Tensor, " n_molecules"]:
    """Return the largest deviation of a bond from its reference length in each molecule, Å; 0 without bonds."""
    deviation = (bond_lengths(batch.positions, bonds) - bonds.lengths).abs()
    none = deviation.new_zeros(batch.n_molecules)
    return none.scatter_reduce(0, bonds.molecule, deviation, "amax")


class BondStretch:
    """Stops a molecule when a bond is broken (a :data:`~basinet.md.dynamics.StopWhen`).

    Args:
        bonds: bonds of the batch, on its device.
        tolerance: largest deviation allowed, Å.
    """

    def __init__(self, bonds: Bonds, tolerance: float = BOND_TOLERANCE) -> None:
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive (Å), got {tolerance}")
        self.bonds, self.tolerance = bonds, tolerance

    def __call__(self, state: MDState) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules with a broken bond."""
        return largest_deviation(state.batch, self.bonds) > self.tolerance
