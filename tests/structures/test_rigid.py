import pytest
import torch

from basinet.structures.batch import collate
from basinet.structures.geometry import project_out_rigid_motion
from basinet.structures.segment import centre_per_molecule, sum_per_molecule
from molecules import BENZENE, CARBON_MONOXIDE, ETHANOL, HELIUM, SMALL, WATER, from_smiles, molecule

ROUNDING = 1e-10
ASPIRIN = from_smiles("CC(=O)Oc1ccccc1C(=O)O")
CARBON_DIOXIDE = molecule([8, 6, 8], [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]])


def random_vectors(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_nothing_is_left_of_net_force_and_torque() -> None:
    batch = collate([*SMALL, CARBON_DIOXIDE], dtype=torch.float64)
    batch = batch.replace(positions=batch.positions + 3.0)
    found = project_out_rigid_motion(random_vectors(batch.n_atoms), batch)
    torque = torch.linalg.cross(batch.positions, found)
    assert sum_per_molecule(found, batch).abs().max() < ROUNDING
    assert sum_per_molecule(torque, batch).abs().max() < ROUNDING


def test_projecting_twice_is_projecting_once_and_it_is_orthogonal() -> None:
    batch = collate(SMALL, dtype=torch.float64)
    v = random_vectors(batch.n_atoms)
    once = project_out_rigid_motion(v, batch)
    assert (project_out_rigid_motion(once, batch) - once).abs().max() < ROUNDING
    assert sum_per_molecule(once * (v - once), batch).sum(-1).abs().max() < ROUNDING


def test_shifts_and_rotations_vanish_and_stretches_stay() -> None:
    batch = collate([ETHANOL, WATER, CARBON_MONOXIDE], dtype=torch.float64)
    arm = centre_per_molecule(batch.positions, batch)
    omega = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    rigid = torch.linalg.cross(omega.expand_as(arm), arm) + omega
    assert project_out_rigid_motion(rigid, batch).abs().max() < ROUNDING
    assert (project_out_rigid_motion(arm, batch) - arm).abs().max() < ROUNDING


def test_an_atom_keeps_nothing_and_no_atoms_are_fine() -> None:
    batch = collate([HELIUM], dtype=torch.float64)
    assert project_out_rigid_motion(random_vectors(1), batch).abs().max() == 0
    assert project_out_rigid_motion(random_vectors(0), batch.select([])).shape == (0, 3)


@pytest.mark.parametrize(
    ("of", "n_rigid"), [(ASPIRIN, 6), (BENZENE, 6), (WATER, 6), (CARBON_DIOXIDE, 5), (CARBON_MONOXIDE, 5)]
)
def test_as_many_directions_are_lost_as_a_molecule_has_rigid_motions(of, n_rigid) -> None:
    n = 4000
    batch = collate([of], dtype=torch.float64).select([0] * n)
    v = random_vectors(batch.n_atoms)
    kept = project_out_rigid_motion(v, batch).square().sum() / v.square().sum()
    expected = 1 - n_rigid / (3 * of.n_atoms)
    assert float(kept) == pytest.approx(expected, rel=0.01, abs=0.01)


def test_single_precision_is_as_good_as_its_positions() -> None:
    batch = collate([ASPIRIN, CARBON_DIOXIDE, CARBON_MONOXIDE])
    v = random_vectors(batch.n_atoms).float()
    exact = project_out_rigid_motion(v.double(), collate([ASPIRIN, CARBON_DIOXIDE, CARBON_MONOXIDE], torch.float64))
    found = project_out_rigid_motion(v, batch)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5
