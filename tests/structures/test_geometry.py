import math

import numpy as np
import pytest
import torch
from rdkit.Chem import rdMolTransforms
from scipy.spatial.transform import Rotation
from torch import Tensor

from basinet.structures.geometry import dihedral, kabsch, rotate_about_axis
from basinet.structures.topology import Rotor, adjacency, rotors
from molecules import ETHANOL, embedded, from_smiles, random_orthogonal

ROUNDING = 1e-10
"""Å, Å² or radians: float64, numbers of order ten."""
MOLECULES = ["CCO", "CCCC", "CC(=O)NC", "CC(=O)Oc1ccccc1C(=O)O", "OO"]


def quadruples(smiles: str) -> list[tuple[int, int, int, int]]:
    """Return four atoms a-b-c-d for every rotor b-c."""
    molecule = from_smiles(smiles)
    assert molecule.bonds is not None
    bonded = adjacency(molecule.n_atoms, molecule.bonds)
    return [
        (next(a for a in bonded[b] if a != c), b, c, next(d for d in bonded[c] if d != b))
        for b, c in (rotor.axis for rotor in rotors(molecule))
    ]


def turned(positions: Tensor, rotor: Rotor, angle: float) -> Tensor:
    """Return positions with the moving side of a rotor turned."""
    fixed, turning = (positions[k] for k in rotor.axis)
    axis = (turning - fixed) / torch.linalg.vector_norm(turning - fixed)
    moved = torch.from_numpy(rotor.moved)
    arms = positions[moved]
    angles = torch.full((len(arms),), angle, dtype=positions.dtype)
    result = positions.clone()
    result[moved] = rotate_about_axis(arms, turning.expand_as(arms), axis.expand_as(arms), angles)
    return result


@pytest.mark.parametrize("smiles", MOLECULES)
def test_dihedrals_have_the_sign_of_rdkit(smiles: str) -> None:
    conformer = embedded(smiles).GetConformer()
    positions = torch.from_numpy(conformer.GetPositions())
    for quadruple in quadruples(smiles):
        expected = rdMolTransforms.GetDihedralRad(conformer, *quadruple)
        assert float(dihedral(*positions[list(quadruple)])) == pytest.approx(expected, abs=ROUNDING)


def test_looking_along_the_axis_a_clockwise_turn_is_positive() -> None:
    a, b, c = (torch.tensor(p, dtype=torch.float64) for p in ([1.0, 0, 0], [0.0, 0, 0], [0.0, 0, 1]))
    d = torch.tensor([0.0, 1, 1], dtype=torch.float64)  # seen along +z, from x to y is clockwise
    assert float(dihedral(a, b, c, d)) == pytest.approx(math.pi / 2)


@pytest.mark.parametrize("smiles", MOLECULES)
@pytest.mark.parametrize("angle", [0.3, -2.0])
def test_turning_a_rotor_adds_the_angle_to_its_dihedral(smiles: str, angle: float) -> None:
    molecule = from_smiles(smiles)
    positions = torch.from_numpy(molecule.positions)
    for rotor, quadruple in zip(rotors(molecule), quadruples(smiles), strict=True):
        before = dihedral(*positions[list(quadruple)])
        after = dihedral(*turned(positions, rotor, angle)[list(quadruple)])
        wrong = math.remainder(float(after - before) - angle, 2 * math.pi)
        assert abs(wrong) < ROUNDING


@pytest.mark.parametrize("smiles", MOLECULES)
def test_turning_a_rotor_keeps_bond_lengths_and_angles(smiles: str) -> None:
    molecule = from_smiles(smiles)
    assert molecule.bonds is not None
    bonded = adjacency(molecule.n_atoms, molecule.bonds)
    positions = torch.from_numpy(molecule.positions)
    # Two neighbours of an atom and the atom itself: all distances among them fix lengths and angles.
    groups = [[i, *bonded[i]] for i in range(molecule.n_atoms)]
    for rotor in rotors(molecule):
        after = turned(positions, rotor, 1.0)
        assert (after - positions).abs().max() > 0.1
        for group in groups:
            change = torch.pdist(after[group]) - torch.pdist(positions[group])
            assert change.abs().max() < ROUNDING


def test_rotation_about_an_axis_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    axis, points, origin = rng.normal(size=3), rng.normal(size=(5, 3)), rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    expected = Rotation.from_rotvec(0.7 * axis).apply(points - origin) + origin
    ours = rotate_about_axis(
        *(torch.from_numpy(np.broadcast_to(x, (5, 3)).copy()) for x in (points, origin, axis)),
        torch.full((5,), 0.7, dtype=torch.float64),
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=ROUNDING)


@pytest.mark.parametrize("seed", range(5))
def test_superposition_recovers_a_rotation_and_a_shift(seed: int) -> None:
    positions = torch.from_numpy(ETHANOL.positions)
    rotation = random_orthogonal(seed, reflect=False)
    shift = torch.tensor([1.0, -2.0, 30.0], dtype=torch.float64)
    found, translation = kabsch(positions, positions @ rotation + shift)
    assert (found - rotation).abs().max() < ROUNDING
    assert (translation - shift).abs().max() < ROUNDING


@pytest.mark.parametrize("seed", range(5))
def test_superposition_is_never_a_reflection(seed: int) -> None:
    positions = torch.from_numpy(from_smiles("CC(=O)NC").positions)
    mirrored = positions @ random_orthogonal(seed, reflect=True)
    rotation, _ = kabsch(positions, mirrored)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    flat = positions * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    assert float(torch.linalg.det(kabsch(flat, flat)[0])) == pytest.approx(1)
