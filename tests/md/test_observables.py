import math

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.md.bonds import Bonds, bonds_by_distance, reference_bonds
from basinet.md.observables import (
    bond_deviation,
    distance_histogram,
    energy_drift,
    first_broken_time,
    histogram_error,
    stability_time,
)
from basinet.md.simulate import Trajectory
from basinet.structures.batch import collate
from basinet.structures.molecule import Molecule
from md_potentials import at, named

CHAIN = at((0, 0, 0), (1.4, 0, 0), (2.8, 0, 0))
"""Three atoms in a row, bonds of 1.4 Å."""


def recorded(molecules: list[Molecule], positions: Tensor, *, failure: list[float] | None = None) -> Trajectory:
    """Return a trajectory of the given positions, a record every 50 fs, total energy zero."""
    n_records, n_molecules = len(positions), len(molecules)
    failure_time = torch.tensor(failure or [math.inf] * n_molecules, dtype=torch.float64)
    times = torch.arange(n_records, dtype=torch.float64) * 50
    energy = torch.where(times[:, None] < failure_time, 0.0, torch.nan).double()
    return Trajectory(
        batch=collate(molecules, torch.float64),
        times=times,
        positions=positions,
        potential_energy=energy,
        kinetic_energy=energy,
        temperature=energy,
        failure_time=failure_time,
        duration=float(times[-1]),
        n_force_calls=n_records,
    )


def stretched(by: float, at_record: int, n_records: int = 8) -> Trajectory:
    """Return the chain with its last atom pulled away by ``by`` Å in one record."""
    positions = torch.from_numpy(CHAIN.positions).repeat(n_records, 1, 1)
    positions[at_record, 2, 0] += by
    return recorded([CHAIN], positions)


@pytest.mark.parametrize("at_record", [0, 3, 7])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_bond_off_by_more_than_half_an_angstrom_is_broken_and_by_less_is_not(at_record: int, sign: int) -> None:
    bonds = reference_bonds([CHAIN])
    broken, whole = stretched(sign * 0.51, at_record), stretched(sign * 0.49, at_record)
    assert first_broken_time(broken, bonds).tolist() == [at_record * 50.0]
    assert stability_time(broken, bonds).tolist() == [at_record * 50.0]
    assert first_broken_time(whole, bonds).tolist() == [math.inf]
    assert stability_time(whole, bonds).tolist() == [350.0]


def test_moving_and_turning_a_molecule_breaks_nothing() -> None:
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    positions = torch.from_numpy(CHAIN.positions).repeat(4, 1, 1)
    positions[2] = positions[2] @ turn.T + 100.0
    assert bond_deviation(recorded([CHAIN], positions), reference_bonds([CHAIN])).max() < 1e-12


def test_each_molecule_has_its_own_bonds_and_a_molecule_without_any_does_not_break() -> None:
    molecules = [named("He"), CHAIN, named("H2O")]
    start = collate(molecules, torch.float64).positions
    positions = start.repeat(3, 1, 1)
    positions[1, 3, 0] += 0.6  # the end of the chain
    positions[2, 0] += 50.0  # helium goes away
    deviation = bond_deviation(recorded(molecules, positions), reference_bonds(molecules))
    assert torch.allclose(deviation, torch.tensor([[0, 0, 0], [0, 0.6, 0], [0, 0, 0]], dtype=torch.float64), atol=1e-12)


def test_a_failed_molecule_is_unstable_from_its_failure_even_if_its_bonds_held() -> None:
    positions = torch.from_numpy(CHAIN.positions).repeat(4, 1, 1)
    positions[2:] = math.nan
    trajectory = recorded([CHAIN], positions, failure=[60.0])
    bonds = reference_bonds([CHAIN])
    assert stability_time(trajectory, bonds).tolist() == [60.0]
    assert bond_deviation(trajectory, bonds).isnan().flatten().tolist() == [False, False, True, True]


@pytest.mark.parametrize(("name", "n_bonds"), [("CH4", 4), ("H2O", 2), ("C6H6", 12), ("CH3CH2OH", 8), ("He", 0)])
def test_bonds_found_by_distance_are_the_bonds_of_chemistry(name: str, n_bonds: int) -> None:
    assert bonds_by_distance(named(name)).shape == (n_bonds, 2)


def test_bonds_on_record_win_over_bonds_found_by_distance_even_if_there_are_none() -> None:
    water = named("H2O")
    without = Molecule(
        atomic_numbers=water.atomic_numbers, positions=water.positions, bonds=np.empty((0, 2), dtype=np.int64)
    )
    bonds = reference_bonds([without, water])
    assert bonds.molecule.tolist() == [1, 1]
    assert bonds.pairs.tolist() == [[3, 4], [3, 5]]
    assert bonds.lengths.tolist() == pytest.approx([0.969, 0.969], abs=1e-3)


def test_reference_lengths_can_be_replaced_by_means_of_a_data_set() -> None:
    bonds: Bonds = reference_bonds([CHAIN]).replace_lengths(torch.tensor([1.4, 2.0], dtype=torch.float64))
    assert first_broken_time(stretched(0.0, 0), bonds).tolist() == [0.0]


def test_the_energy_drift_is_the_slope_per_atom_and_picosecond() -> None:
    molecules = [CHAIN, named("He")]
    trajectory = recorded(molecules, collate(molecules, torch.float64).positions.repeat(5, 1, 1))
    picoseconds = trajectory.times[:, None] / 1000
    energy = -1000.0 + picoseconds * torch.tensor([0.6, -0.1], dtype=torch.float64)
    trajectory = recorded_with_energy(trajectory, energy)
    assert energy_drift(trajectory).tolist() == pytest.approx([0.2, -0.1], abs=1e-9)
    energy[1:, 0] = math.nan
    assert energy_drift(recorded_with_energy(trajectory, energy)).isnan().tolist() == [True, False]


def recorded_with_energy(trajectory: Trajectory, energy: Tensor) -> Trajectory:
    return Trajectory(
        batch=trajectory.batch,
        times=trajectory.times,
        positions=trajectory.positions,
        potential_energy=energy,
        kinetic_energy=torch.zeros_like(energy),
        temperature=torch.zeros_like(energy),
        failure_time=trajectory.failure_time,
        duration=trajectory.duration,
        n_force_calls=trajectory.n_force_calls,
    )


def frames(*distances: float) -> Tensor:
    return torch.tensor([[[0.0, 0, 0], [0, 0, d]] for d in distances], dtype=torch.float64)


def test_two_atoms_at_a_fixed_distance_fill_one_bin_of_height_50() -> None:
    h = distance_histogram(frames(1.211, 1.211, 1.211))
    assert torch.nonzero(h).flatten().tolist() == [60]
    assert h[60].item() == pytest.approx(50.0)


def test_the_distribution_of_distances_has_integral_one_and_no_self_distances() -> None:
    positions = torch.rand((3, 30, 3), generator=torch.Generator().manual_seed(0)) * 8 + 1
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3) * 2  # no two atoms closer than 2 Å
    assert (distance_histogram(positions).sum() * 0.02).item() == pytest.approx(1.0)
    assert distance_histogram(grid[None]).nonzero().min() >= 99


def test_distances_beyond_ten_angstrom_are_left_out() -> None:
    assert distance_histogram(frames(2.0, 11.0)).sum().item() == pytest.approx(50.0)
    assert distance_histogram(frames(10.0)).nonzero().flatten().tolist() == [499]


def test_the_error_of_h_is_zero_for_equal_and_two_for_disjoint_distributions() -> None:
    one, other = distance_histogram(frames(1.0, 1.5)), distance_histogram(frames(2.0))
    assert histogram_error(one, one) == 0.0
    assert histogram_error(one, other) == pytest.approx(2.0)
    assert histogram_error(one, distance_histogram(frames(1.0))) == pytest.approx(1.0)


def test_a_single_atom_has_no_distances() -> None:
    assert distance_histogram(torch.zeros(4, 1, 3)).abs().max() == 0
