"""What a trajectory says: bonds that break, energy that drifts, and the distribution of distances.

The definitions follow Fu et al., "Forces are not Enough: Benchmark and Critical Evaluation for Machine Learning Force
Fields with Molecular Simulations" (TMLR 2023); where the authors' code has a trap the difference is named.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from basinet.md.simulate import Trajectory
from basinet.structures.molecule import Molecule

BOND_TOLERANCE = 0.5
"""Å. A bond that deviates by more from its reference length is broken (Fu et al., sec. 4)."""
BOND_SKIN = 0.3
"""Å, per atom. Added to the covalent radii when bonds are found by distance: the default of ASE's neighbour list, which
the benchmark uses. C-C counts as bonded below 2.12 Å, C-H below 1.67 Å, O-H below 1.57 Å."""
HISTOGRAM_RANGE = 10.0
"""Å, the largest distance in h(r)."""
HISTOGRAM_BINS = 500
"""Number of bins of h(r), each 0.02 Å wide."""

_FRAMES_AT_ONCE = 1024
"""Frames whose pair distances are held in memory together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bonds:
    """The bonds of all molecules of a batch, with the lengths they should keep."""

    pairs: Int64[Tensor, "n_bonds 2"]
    """Atom indices in the batch."""
    lengths: Float64[Tensor, " n_bonds"]
    """Reference lengths, Å."""
    molecule: Int64[Tensor, " n_bonds"]
    """The molecule each bond belongs to."""

    def replace_lengths(self, lengths: Float64[Tensor, " n_bonds"]) -> "Bonds":
        """Return the same bonds with other reference lengths, such as means over a data set."""
        return dataclasses.replace(self, lengths=lengths)


def reference_bonds(molecules: Sequence[Molecule]) -> Bonds:
    """Return the bonds of molecules in the order in which they are collated, with their present lengths.

    The bonds are those on record; a molecule without a record (``bonds is None``) has them found by distance.
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

    Radii of Cordero et al. (2008), the "natural cutoffs" of ASE. With the default skin a short hydrogen bond (below
    1.57 Å) counts as a bond, as it does in the benchmark.
    """
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    distance = np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    radius = covalent_radii[molecule.atomic_numbers] + skin
    bonded = distance < radius[first] + radius[second]
    return np.stack([first[bonded], second[bonded]], axis=1)


def bond_deviation(trajectory: Trajectory, bonds: Bonds) -> Float64[Tensor, "n_records n_molecules"]:
    """Return the largest |b - b_ref| over the bonds of each molecule, Å; 0 without bonds, NaN after a failure."""
    first, second = bonds.pairs.unbind(dim=1)
    vector = trajectory.positions[:, first].double() - trajectory.positions[:, second].double()
    deviation = (torch.linalg.vector_norm(vector, dim=-1) - bonds.lengths).abs()  # [n_records, n_bonds]
    start = torch.where(torch.isnan(trajectory.potential_energy), torch.nan, 0.0).double()  # [n_records, n_molecules]
    return start.scatter_reduce(1, bonds.molecule.expand_as(deviation), deviation, "amax")


def first_broken_time(
    trajectory: Trajectory, bonds: Bonds, tolerance: float = BOND_TOLERANCE
) -> Float64[Tensor, " n_molecules"]:
    """Return the time of the first record with a bond off by more than ``tolerance`` (Å), fs; infinite if none."""
    broken = bond_deviation(trajectory, bonds) > tolerance
    times = torch.where(broken, trajectory.times[:, None], torch.inf)
    return times.amin(dim=0)


def stability_time(
    trajectory: Trajectory, bonds: Bonds, tolerance: float = BOND_TOLERANCE
) -> Float64[Tensor, " n_molecules"]:
    """Return how long each molecule stayed whole, fs: until it failed or a bond broke, at most the whole duration."""
    first_bad = torch.minimum(trajectory.failure_time, first_broken_time(trajectory, bonds, tolerance))
    return first_bad.clamp(max=trajectory.duration)


def energy_drift(trajectory: Trajectory) -> Float64[Tensor, " n_molecules"]:
    """Return the slope of the total energy per atom against time, eV/atom/ps, by least squares.

    Only records before a failure count; NaN for a molecule with fewer than two of them. For constant-energy dynamics
    it should be zero; with a thermostat it measures heat, not error.
    """
    energy = trajectory.total_energy / trajectory.batch.atoms_per_molecule
    known = ~torch.isnan(energy)
    count = known.sum(dim=0)
    time = torch.where(known, trajectory.times[:, None] / 1000, 0.0)  # ps
    energy = torch.where(known, energy, 0.0)
    time_off = torch.where(known, time - time.sum(dim=0) / count, 0.0)
    energy_off = torch.where(known, energy - energy.sum(dim=0) / count, 0.0)
    slope = (time_off * energy_off).sum(dim=0) / time_off.square().sum(dim=0)
    return torch.where(count > 1, slope, torch.nan)


def stable_positions(
    trajectory: Trajectory, molecule: int, until: float | None = None
) -> Float[Tensor, "n_frames n_atoms 3"]:
    """Return the recorded positions of one molecule before its failure, up to and including time ``until`` (fs)."""
    if not 0 <= molecule < trajectory.batch.n_molecules:
        raise ValueError(f"molecule must be 0 to {trajectory.batch.n_molecules - 1}, got {molecule}")
    keep = ~torch.isnan(trajectory.potential_energy[:, molecule])
    if until is not None:
        keep = keep & (trajectory.times <= until)
    return trajectory.positions[keep][:, trajectory.batch.molecule == molecule]


def distance_histogram(positions: Float[Tensor, "n_frames n_atoms 3"]) -> Float64[Tensor, " n_bins"]:
    """Return h(r), 1/Å: the distribution of the distances between the atoms of one molecule, with integral 1.

    500 bins on 0 to 10 Å; larger distances are left out of the count and of the norm, as in the benchmark. An atom is
    no neighbour of itself (the authors' code relies on exact zeros there, which a matrix-product route does not give).
    Without any distance in range, as for a single atom, h(r) is zero everywhere.
    """
    first, second = torch.triu_indices(positions.shape[1], positions.shape[1], offset=1, device=positions.device)
    count = torch.zeros(HISTOGRAM_BINS, dtype=torch.float64, device=positions.device)
    width = HISTOGRAM_RANGE / HISTOGRAM_BINS
    for frames in positions.double().split(_FRAMES_AT_ONCE):
        distance = torch.linalg.vector_norm(frames[:, first] - frames[:, second], dim=-1).flatten()
        bins = (distance[distance <= HISTOGRAM_RANGE] / width).long().clamp(max=HISTOGRAM_BINS - 1)
        count += torch.bincount(bins, minlength=HISTOGRAM_BINS)
    return count / (count.sum().clamp(min=1) * width)


def histogram_error(h: Float64[Tensor, " n_bins"], reference: Float64[Tensor, " n_bins"]) -> float:
    """Return the integral of |h - h_ref| over r: 0 for equal distributions, 2 for disjoint ones."""
    return float((h - reference).abs().sum() * HISTOGRAM_RANGE / HISTOGRAM_BINS)
