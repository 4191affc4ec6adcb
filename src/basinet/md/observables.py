"""Compute observables of a trajectory: broken bonds, energy drift, distribution of distances.

The definitions follow Fu et al., "Forces are not Enough: Benchmark and Critical Evaluation for Machine Learning Force
Fields with Molecular Simulations" (TMLR 2023); differences from the authors' code are named.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from basinet.md.bonds import BOND_TOLERANCE, Bonds
from basinet.md.simulate import Trajectory

HISTOGRAM_RANGE = 10.0
"""Largest distance in h(r), Å."""
HISTOGRAM_BINS = 500
"""Number of bins of h(r), each 0.02 Å wide."""

DISTANCES_AT_ONCE = 2**21
"""Distances held in memory at once."""


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
    """Return the time of the first record where a bond deviates by more than ``tolerance`` (Å), fs, or infinity."""
    broken = bond_deviation(trajectory, bonds) > tolerance
    times = torch.where(broken, trajectory.times[:, None], torch.inf)
    return times.amin(dim=0)


def stability_time(
    trajectory: Trajectory, bonds: Bonds, tolerance: float = BOND_TOLERANCE
) -> Float64[Tensor, " n_molecules"]:
    """Return the time until each molecule failed or a bond broke, fs; at most the duration."""
    first_bad = torch.minimum(trajectory.failure_time, first_broken_time(trajectory, bonds, tolerance))
    return first_bad.clamp(max=trajectory.duration)


def energy_drift(trajectory: Trajectory) -> Float64[Tensor, " n_molecules"]:
    """Return the slope of the total energy per atom against time, eV/atom/ps, by least squares.

    Records after a failure do not count; NaN with fewer than two records. Near zero for constant-energy dynamics; with
    a thermostat it measures heat, not error.
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


def distance_histogram(positions: Float[Tensor, "n_frames n_atoms 3"]) -> Float64[Tensor, " n_bins"]:
    """Return h(r), 1/Å: the distribution of the distances between the atoms of one molecule, with integral 1.

    500 bins from 0 to 10 Å; larger distances do not count, as in the benchmark. An atom is no neighbour of itself (the
    authors' code relies on exact zeros there, which distances by matrix products do not give). Zero everywhere if no
    distance is in range, as for a single atom.
    """
    counts = torch.zeros((1, HISTOGRAM_BINS), dtype=torch.float64, device=positions.device)
    rows = torch.zeros(len(positions), dtype=torch.int64, device=positions.device)
    count_distances(positions.double(), rows, counts)
    return normalised(counts)[0]


def count_distances(
    positions: Float64[Tensor, "n_frames n_atoms 3"],
    rows: Int64[Tensor, " n_frames"],
    counts: Float64[Tensor, "n_rows n_bins"],
) -> None:
    """Add the distances in each frame to a row of counts."""
    first, second = torch.triu_indices(positions.shape[1], positions.shape[1], offset=1, device=positions.device)
    width = HISTOGRAM_RANGE / HISTOGRAM_BINS
    at_once = max(1, DISTANCES_AT_ONCE // max(1, len(first)))
    for frames, row in zip(positions.split(at_once), rows.split(at_once), strict=True):
        distance = torch.linalg.vector_norm(frames[:, first] - frames[:, second], dim=-1)
        bins = (distance / width).long().clamp(max=HISTOGRAM_BINS - 1)
        place = (row[:, None] * HISTOGRAM_BINS + bins)[distance <= HISTOGRAM_RANGE]
        counts += torch.bincount(place, minlength=counts.numel()).view_as(counts)


def normalised(counts: Float64[Tensor, " *rows n_bins"]) -> Float64[Tensor, " *rows n_bins"]:
    """Return h(r) from counts, 1/Å: its integral is 1, or 0 without counts."""
    return counts / (counts.sum(dim=-1, keepdim=True).clamp(min=1) * (HISTOGRAM_RANGE / HISTOGRAM_BINS))


def histogram_error(h: Float64[Tensor, " n_bins"], reference: Float64[Tensor, " n_bins"]) -> float:
    """Return the integral of |h - h_ref| over r: 0 for equal distributions, 2 for disjoint ones."""
    return float((h - reference).abs().sum() * HISTOGRAM_RANGE / HISTOGRAM_BINS)
