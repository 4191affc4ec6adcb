import math

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise
from basinet.noise.vibration import AS_RELEASED, IN_RADIANS, InternalScales, VibrationRotationNoise
from basinet.structures.batch import Batch, collate, unbatch
from basinet.structures.geometry import dihedral, kabsch
from basinet.structures.molecule import Molecule
from basinet.structures.topology import adjacency, side_of
from molecules import WATER, from_smiles

ROUNDING = 1e-10
N_DEVIATIONS = 5
NOTHING = 1e-12
"""A deviation too small to be seen beside the one under test."""
ETHANOL, ASPIRIN, OCTANE, BENZENE = (from_smiles(s) for s in ("CCO", "CC(=O)Oc1ccccc1C(=O)O", "CCCCCCCC", "c1ccccc1"))
IBUPROFEN = from_smiles("CC(C)Cc1ccc(cc1)C(C)C(=O)O")
BRIDGED = from_smiles("CCC1CC2CCC1C2")
ALKYNE = from_smiles("CCC#CCO")
AMIDE = from_smiles("CC=CC(=O)NC")
N_SAMPLES = 1000


def only(**scales: float) -> InternalScales:
    everything = {"bond": NOTHING, "angle": NOTHING, "torsion": NOTHING, "rotor": NOTHING, **scales}
    return InternalScales(**everything, once_per_neighbour=False)


def samples(molecule: Molecule, scales: InternalScales, n: int = N_SAMPLES) -> tuple[Tensor, Tensor]:
    """Return clean [n_atoms, 3] and noisy positions [n, n_atoms, 3]."""
    batch = collate([molecule], dtype=torch.float64)
    noisy = VibrationRotationNoise(scales)(batch.select([0] * n), torch.Generator().manual_seed(0)).positions
    return batch.positions, noisy.reshape(n, molecule.n_atoms, 3)


def lengths(x: Tensor, pairs: np.ndarray) -> Tensor:
    return torch.linalg.vector_norm(x[..., pairs[:, 0], :] - x[..., pairs[:, 1], :], dim=-1)


def angle(x: Tensor, i: int, j: int, k: int) -> Tensor:
    a, b = x[..., i, :] - x[..., j, :], x[..., k, :] - x[..., j, :]
    return torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1), (a * b).sum(-1))


def turn_about(x: Tensor, clean: Tensor, quadruple: tuple[int, int, int, int]) -> Tensor:
    """Return the change of a dihedral, in (-π, π]."""
    change = dihedral(*x[:, list(quadruple)].unbind(1)) - dihedral(*clean[list(quadruple)])
    return torch.atan2(torch.sin(change), torch.cos(change))


def is_deviation(values: Tensor, expected: float) -> bool:
    return abs(float(values.std()) / expected - 1) < N_DEVIATIONS / math.sqrt(2 * len(values))


def bonds_of(molecule: Molecule) -> tuple[np.ndarray, np.ndarray]:
    """Return the bonds outside rings and those in rings."""
    assert molecule.bonds is not None
    bonded = adjacency(molecule.n_atoms, molecule.bonds)
    in_ring = np.array([i in side_of(bonded, fixed=i, start=j) for i, j in molecule.bonds.tolist()])
    return molecule.bonds[~in_ring], molecule.bonds[in_ring]


@pytest.mark.parametrize("molecule", [ASPIRIN, BRIDGED, ALKYNE, AMIDE], ids=lambda m: m.name)
def test_bonds_outside_rings_stretch_and_those_in_rings_do_not(molecule: Molecule) -> None:
    clean, noisy = samples(molecule, AS_RELEASED)
    outside, inside = bonds_of(molecule)
    change = lengths(noisy, outside) - lengths(clean, outside)
    assert all(is_deviation(column, AS_RELEASED.bond) for column in change.T)
    correlation = torch.corrcoef(change.T) - torch.eye(len(outside))
    assert correlation.abs().max() < N_DEVIATIONS / math.sqrt(N_SAMPLES)
    assert (lengths(noisy, inside) - lengths(clean, inside)).abs().sum() < ROUNDING * noisy.numel()


@pytest.mark.parametrize("molecule", [ASPIRIN, BRIDGED], ids=lambda m: m.name)
def test_rings_move_as_rigid_bodies(molecule: Molecule) -> None:
    clean, noisy = samples(molecule, AS_RELEASED, n=50)
    atoms = sorted(set(bonds_of(molecule)[1].flatten().tolist()))
    pairs = np.array([(i, j) for i in atoms for j in atoms if i < j])
    assert (lengths(noisy, pairs) - lengths(clean, pairs)).abs().max() < ROUNDING


def test_an_angle_is_bent_once_with_the_stated_deviation() -> None:
    clean, noisy = samples(ETHANOL, only(angle=0.05))
    change = angle(noisy, 1, 2, 8) - angle(clean, 1, 2, 8)
    assert is_deviation(change, 0.05)
    assert abs(float(change.mean())) < N_DEVIATIONS * 0.05 / math.sqrt(N_SAMPLES)
    assert (lengths(noisy, np.array([(1, 2), (2, 8)])) - lengths(clean, np.array([(1, 2), (2, 8)]))).abs().max() < 1e-9


def test_an_arm_of_a_ring_is_always_bent_against_the_ring() -> None:
    toluene = from_smiles("Cc1ccccc1")
    clean, noisy = samples(toluene, only(angle=0.05))
    change = torch.stack([angle(noisy, i, 1, 0) - angle(clean, i, 1, 0) for i in (2, 6)], dim=1)
    assert float(change.abs().amax(1).min()) > 1e-9  # an arm that was its own reference would stay
    # In the plane of the ring one angle grows by what the other one loses.
    assert change.sum(1).abs().max() < 1e-2
    assert is_deviation(change[:, 0], 0.05)


def test_an_angle_that_would_close_beyond_zero_stays() -> None:
    sigma = 1.5
    clean, noisy = samples(ETHANOL, only(angle=sigma))
    change = angle(noisy, 1, 2, 8) - angle(clean, 1, 2, 8)
    expected = torch.special.ndtr(-angle(clean, 1, 2, 8) / sigma)
    stays = (change.abs() < 1e-9).double().mean()
    assert float((stays - expected).abs()) < N_DEVIATIONS * math.sqrt(float(expected) / N_SAMPLES)


def test_bending_takes_every_neighbour_for_reference_in_turn() -> None:
    clean, noisy = samples(ETHANOL, only(angle=0.05))
    # Of the angles at the first carbon those between two hydrogens change too, unless one of them is the reference.
    for i, k in ((3, 1), (4, 1), (5, 1), (3, 4), (3, 5), (4, 5)):
        change = angle(noisy, i, 0, k) - angle(clean, i, 0, k)
        assert 0.025 < float(change.std()) < 0.075


def test_torsions_have_the_stated_deviation() -> None:
    clean, noisy = samples(ETHANOL, only(rotor=0.1))
    for quadruple in ((0, 1, 2, 8), (3, 0, 1, 2)):
        assert is_deviation(turn_about(noisy, clean, quadruple), 0.1)


def test_the_released_code_turns_a_torsion_once_for_each_further_neighbour() -> None:
    scales = InternalScales(bond=NOTHING, angle=NOTHING, torsion=NOTHING, rotor=0.02, once_per_neighbour=True)
    assert ETHANOL.bonds is not None
    assert ETHANOL.bonds[:2].tolist() == [[0, 1], [1, 2]]
    clean, noisy = samples(ETHANOL, scales)
    assert is_deviation(turn_about(noisy, clean, (3, 0, 1, 2)), 3 * 0.02)  # the second atom has four neighbours
    assert is_deviation(turn_about(noisy, clean, (0, 1, 2, 8)), 1 * 0.02)  # the second atom has two


def test_torsions_that_are_no_rotors_have_their_own_deviation() -> None:
    clean, noisy = samples(AMIDE, only(torsion=0.1))
    assert is_deviation(turn_about(noisy, clean, (0, 1, 2, 3)), 0.1)
    assert turn_about(noisy, clean, (1, 2, 3, 5)).abs().max() < 1e-9


def test_a_straight_chain_keeps_its_line_and_nothing_is_nan() -> None:
    x = torch.from_numpy(ALKYNE.positions)
    line = x[1:5].clone()
    direction = (line[3] - line[0]) / torch.linalg.vector_norm(line[3] - line[0])
    x[2], x[3] = line[0] + 1.46 * direction, line[0] + 2.66 * direction
    batch = collate([ALKYNE] * 200, dtype=torch.float64).replace(positions=x.repeat(200, 1))
    noisy = VibrationRotationNoise()(batch, torch.Generator().manual_seed(0)).positions.reshape(200, -1, 3)
    assert torch.isfinite(noisy).all()
    assert (angle(noisy, 1, 2, 3) - math.pi).abs().max() < 1e-6


def test_an_angle_opened_beyond_180_degrees_comes_back_on_the_other_side() -> None:
    clean, noisy = samples(ETHANOL, only(angle=1.5))
    assert torch.isfinite(noisy).all()
    change = angle(noisy, 1, 2, 8) - angle(clean, 1, 2, 8)
    assert float(change.max()) <= math.pi - float(angle(clean, 1, 2, 8))
    assert (lengths(noisy, np.array([(2, 8)])) - lengths(clean, np.array([(2, 8)]))).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scales", [AS_RELEASED, IN_RADIANS])
def test_ten_thousand_molecules_stay_finite(scales: InternalScales, dtype: torch.dtype) -> None:
    mixed = collate([ETHANOL, ALKYNE, AMIDE, BENZENE, from_smiles("CCC#N")], dtype=dtype)
    batch = mixed.select([k % 5 for k in range(2500)])
    noisy = VibrationRotationNoise(scales)(batch, torch.Generator().manual_seed(0)).positions
    assert torch.isfinite(noisy).all()
    assert noisy.dtype == dtype


def test_molecules_without_rotors_stay_and_so_does_the_clean_batch(generator: torch.Generator) -> None:
    batch = collate([BENZENE, ETHANOL, from_smiles("O")], dtype=torch.float64)
    before = batch.positions.clone()
    moved = VibrationRotationNoise()(batch, generator).positions
    assert torch.equal(batch.positions, before)
    same = (moved == before).all(1)
    assert torch.equal(same[batch.molecule != 1], torch.ones(15, dtype=torch.bool))
    assert (moved - before)[batch.molecule == 1].abs().max() > 1e-3


@pytest.mark.parametrize(("molecule", "published_code"), [(ASPIRIN, 0.040), (OCTANE, 0.061), (IBUPROFEN, 0.055)])
def test_the_displacements_are_those_of_the_released_code(molecule: Molecule, published_code: float) -> None:
    clean, noisy = samples(molecule, AS_RELEASED, n=300)
    squares = []
    for x in noisy:
        rotation, shift = kabsch(x, clean)
        squares.append(float((x @ rotation + shift - clean).square().mean()))
    assert math.sqrt(np.mean(squares)) == pytest.approx(published_code, rel=0.15)


def test_the_target_of_hybrid_noise_is_its_gaussian_part(generator: torch.Generator) -> None:
    batch = collate([ASPIRIN], dtype=torch.float64)
    perturbed = HybridNoise(VibrationRotationNoise(only(bond=0.05)), CoordinateNoise(0.04))(batch, generator)
    middle = perturbed.batch.positions + 0.04 * perturbed.target
    inside = bonds_of(ASPIRIN)[1]
    assert (lengths(middle, inside) - lengths(batch.positions, inside)).abs().max() < ROUNDING


@pytest.mark.parametrize("name", ["bond", "angle", "torsion", "rotor"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_deviations_that_are_not_positive_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {value}"):
        only(**{name: value})


def test_unknown_bonds_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="1 of 2 molecules have no bonds with bond orders on record"):
        VibrationRotationNoise()(collate([ETHANOL, WATER]), generator)
    empty: Batch = collate([WATER]).select([])
    assert VibrationRotationNoise()(empty, generator).n_atoms == 0
    assert len(unbatch(empty.positions, empty)) == 0
