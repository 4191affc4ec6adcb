import math

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from torch import Tensor

from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise, turn_rotors
from basinet.structures.batch import Batch, collate, unbatch
from basinet.structures.batch_topology import Rotors
from basinet.structures.geometry import kabsch
from basinet.structures.molecule import Molecule
from basinet.structures.topology import adjacency, rotors
from molecules import HELIUM, WATER, from_rdkit, from_smiles

ROUNDING = 1e-10
"""Å or radians: float64, numbers of order ten."""
N_DEVIATIONS = 5
TAU = 0.04
ETHANOL, ASPIRIN, OCTANE, BENZENE = (from_smiles(s) for s in ("CCO", "CC(=O)Oc1ccccc1C(=O)O", "CCCCCCCC", "c1ccccc1"))
IBUPROFEN = from_smiles("CC(C)Cc1ccc(cc1)C(C)C(=O)O")
TWO_DEGREES = math.radians(2)
FRAD = HybridNoise(RotorNoise(TWO_DEGREES), CoordinateNoise(TAU))


def rotors_of(batch: Batch) -> Rotors:
    assert batch.topology is not None
    return batch.topology.rotors


def aligned_rms(noisy: Tensor, clean: Tensor) -> float:
    """Return the root mean square displacement of a coordinate after superposition."""
    rotation, shift = kabsch(noisy, clean)
    return float((noisy @ rotation + shift - clean).square().mean().sqrt())


def test_turning_the_hydroxyl_of_ethanol_moves_its_hydrogen_alone() -> None:
    batch = collate([ETHANOL], dtype=torch.float64)
    moved = [set(rotors_of(batch).moved_atom[rotors_of(batch).moved_rotor == r].tolist()) for r in range(2)]
    assert sorted(moved, key=len) == [{8}, {3, 4, 5}]


@pytest.mark.parametrize("quadruple", [(0, 1, 2, 8), (3, 0, 1, 2)])
def test_a_turn_by_thirty_degrees_adds_thirty_degrees_to_the_dihedral(quadruple: tuple[int, int, int, int]) -> None:
    batch = collate([ETHANOL], dtype=torch.float64)
    table = rotors_of(batch)
    chosen = torch.tensor([set(axis) == set(quadruple[1:3]) for axis in table.axis.tolist()])
    assert int(chosen.sum()) == 1
    turned = turn_rotors(batch.positions, table, torch.where(chosen, math.radians(30), 0.0).double())
    before, after = (dihedral(positions, quadruple) for positions in (batch.positions, turned))
    assert (after - before) % 360 == pytest.approx(30, abs=1e-5)  # RDKit takes the arc cosine


def dihedral(positions: Tensor, quadruple: tuple[int, int, int, int]) -> float:
    """Return a dihedral in degrees, as RDKit measures it."""
    conformer = Chem.Conformer(len(positions))
    conformer.SetPositions(positions.numpy())
    return float(rdMolTransforms.GetDihedralDeg(conformer, *quadruple))


SMILES = [
    f"{a}{b}{c}"
    for a in ("CC", "OC", "NCC", "CC(=O)N", "FC(F)(F)", "CCOC(=O)")
    for b in ("", "c1ccc(cc1)", "C1CC1", "C(C)CC", "S(=O)(=O)C")
    for c in ("CCO", "C(=O)OC", "CC#C", "C=CC")
]


def random_turns(mol: Chem.Mol, molecule: Molecule, angle: Tensor) -> Tensor:
    """Return positions with the rotors turned one after the other by RDKit."""
    assert molecule.bonds is not None
    bonded = adjacency(molecule.n_atoms, molecule.bonds)
    conformer = Chem.Conformer(mol.GetConformer())
    for (b, c), by in zip((rotor.axis for rotor in rotors(molecule)), angle.tolist(), strict=True):
        quadruple = (next(a for a in bonded[b] if a != c), b, c, next(d for d in bonded[c] if d != b))
        now = rdMolTransforms.GetDihedralRad(conformer, *quadruple)
        rdMolTransforms.SetDihedralRad(conformer, *quadruple, now + by)
    return torch.from_numpy(conformer.GetPositions())


@pytest.fixture(scope="module")
def compounds() -> list[Chem.Mol]:
    """Return a conformation of each of 120 compounds."""
    mols = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in SMILES]
    for mol in mols:
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mols


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_turned_molecules_are_those_of_rdkit(
    compounds: list[Chem.Mol], generator: torch.Generator, dtype: torch.dtype, tolerance: float
) -> None:
    molecules = [from_rdkit(mol) for mol in compounds]
    batch = collate(molecules, dtype=dtype)
    table = rotors_of(batch)
    angle = math.radians(20) * torch.randn(table.n_rotors, generator=generator, dtype=torch.float64)
    turned = unbatch(turn_rotors(batch.positions, table, angle.to(dtype)), batch)
    per_molecule = torch.split(angle, torch.bincount(batch.molecule[table.axis[:, 0]], minlength=120).tolist())
    assert sum(len(a) > 0 for a in per_molecule) >= 100
    worst = 0.0
    for mol, molecule, by, ours in zip(compounds, molecules, per_molecule, turned, strict=True):
        theirs = random_turns(mol, molecule, by)
        rotation, shift = kabsch(ours.double(), theirs)
        worst = max(worst, float((ours.double() @ rotation + shift - theirs).abs().max()))
    assert worst < tolerance


def test_the_order_of_rotors_does_not_change_the_distances(generator: torch.Generator) -> None:
    batch = collate([ASPIRIN], dtype=torch.float64)
    table = rotors_of(batch)
    angle = math.radians(20) * torch.randn(table.n_rotors, generator=generator, dtype=torch.float64)
    other = Rotors(
        axis=table.axis,
        rank=table.rank.flip(0),
        moved_rotor=table.moved_rotor,
        moved_atom=table.moved_atom,
    )
    first, second = (torch.pdist(turn_rotors(batch.positions, t, angle)) for t in (table, other))
    assert (first - second).abs().max() < ROUNDING


def test_turning_rotors_keeps_bond_lengths_and_angles(generator: torch.Generator) -> None:
    batch = collate([ASPIRIN], dtype=torch.float64)
    after = RotorNoise(math.radians(20))(batch, generator).positions
    assert ASPIRIN.bonds is not None
    bonded = adjacency(ASPIRIN.n_atoms, ASPIRIN.bonds)
    for group in ([i, *bonded[i]] for i in range(ASPIRIN.n_atoms)):
        assert (torch.pdist(after[group]) - torch.pdist(batch.positions[group])).abs().max() < ROUNDING
    assert (torch.pdist(after) - torch.pdist(batch.positions)).abs().max() > 0.01


def test_the_derivative_of_a_turn_is_a_rotation_of_the_moved_atoms() -> None:
    batch = collate([ASPIRIN], dtype=torch.float64)
    x, table, step = batch.positions, rotors_of(batch), 1e-6
    for r in range(table.n_rotors):
        angle = torch.zeros(table.n_rotors, dtype=torch.float64)
        angle[r] = step
        numeric = (turn_rotors(x, table, angle) - turn_rotors(x, table, -angle)) / (2 * step)
        assert (numeric - jacobian(x, table)[:, :, r]).abs().max() < 1e-8


def jacobian(x: Tensor, table: Rotors) -> Tensor:
    """Return dx/dψ [n_atoms, 3, n_rotors] at zero: u × (x - x_k) for the atoms that move."""
    columns = x.new_zeros(len(x), 3, table.n_rotors)
    for rotor, atom in zip(table.moved_rotor.tolist(), table.moved_atom.tolist(), strict=True):
        fixed, turning = x[table.axis[rotor]]
        axis = (turning - fixed) / torch.linalg.vector_norm(turning - fixed)
        columns[atom, :, rotor] = torch.linalg.cross(axis, x[atom] - turning)
    return columns


def test_small_hybrid_noise_has_the_covariance_of_the_linear_theory(generator: torch.Generator) -> None:
    sigma, n = math.radians(0.5), 4000
    one = collate([ASPIRIN], dtype=torch.float64)
    c = jacobian(one.positions, rotors_of(one)).flatten(0, 1)
    expected = TAU**2 * torch.eye(63, dtype=torch.float64) + sigma**2 * c @ c.T
    batch = one.select([0] * n)
    noisy = HybridNoise(RotorNoise(sigma), CoordinateNoise(TAU))(batch, generator).batch.positions
    displacement = (noisy - batch.positions).reshape(n, 63)
    found = displacement.T @ displacement / n
    # Of a Gaussian sample: E|S - Σ|² = (|Σ|² + (tr Σ)²) / n.
    sampling = ((expected.square().sum() + expected.trace() ** 2) / n / expected.square().sum()).sqrt()
    assert float((found - expected).norm() / expected.norm()) == pytest.approx(float(sampling), rel=0.1)


@pytest.mark.parametrize("degrees", [2, 20])
def test_the_target_is_the_gaussian_part_alone(degrees: float, generator: torch.Generator) -> None:
    batch = collate([ASPIRIN], dtype=torch.float64).select([0] * 2000)
    noise = HybridNoise(RotorNoise(math.radians(degrees)), CoordinateNoise(TAU))
    perturbed = noise(batch, generator)
    back = perturbed.target * perturbed.scale[batch.molecule][:, None]
    n = back.numel()
    assert float(back.std()) == pytest.approx(TAU, rel=0.01)
    turned = perturbed.batch.positions + back - batch.positions
    correlation = torch.corrcoef(torch.stack([back.flatten(), turned.flatten()]))[0, 1]
    assert abs(float(correlation)) < 3 / math.sqrt(n)
    lengths = torch.stack([torch.pdist(p)[0] for p in unbatch(turned + batch.positions, batch)[:20]])
    assert (lengths - lengths[0]).abs().max() < ROUNDING


def test_without_the_rotors_of_hydrogens_ethanol_stays_and_butane_turns_about_its_middle(
    generator: torch.Generator,
) -> None:
    batch = collate([ETHANOL, from_smiles("CCCC")], dtype=torch.float64)
    after = RotorNoise(math.radians(20), "heavy")(batch, generator).positions
    moved = ((after - batch.positions).norm(dim=1) > ROUNDING)[batch.molecule == 1]
    assert torch.equal(after[batch.molecule == 0], batch.positions[batch.molecule == 0])
    assert int(moved.sum()) == 1 + 2 + 3  # CH3 and the hydrogens of the CH2 it hangs on
    assert len(set(batch.atomic_numbers[batch.molecule == 1][moved].tolist())) == 2


def test_molecules_without_rotors_get_the_very_samples_of_coordinate_noise() -> None:
    batch = collate([BENZENE, ASPIRIN, BENZENE])
    hybrid = FRAD(batch, torch.Generator().manual_seed(3))
    plain = CoordinateNoise(TAU)(batch, torch.Generator().manual_seed(3))
    same = (hybrid.batch.positions == plain.batch.positions).all(1)
    assert same[batch.molecule != 1].all()
    assert not same[batch.molecule == 1].all()
    assert torch.equal(hybrid.target, plain.target)


@pytest.mark.parametrize(
    ("molecule", "raw", "aligned"), [(ASPIRIN, 0.052, 0.021), (OCTANE, 0.094, 0.031), (IBUPROFEN, 0.057, 0.030)]
)
def test_two_degrees_move_atoms_less_than_the_gaussian_noise(
    molecule: Molecule, raw: float, aligned: float, generator: torch.Generator
) -> None:
    batch = collate([molecule], dtype=torch.float64).select([0] * 400)
    noisy = unbatch(RotorNoise(TWO_DEGREES)(batch, generator).positions, batch)
    clean = batch.positions[: molecule.n_atoms]
    found = [aligned_rms(x, clean) for x in noisy]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(aligned, rel=0.1)
    moved = RotorNoise(TWO_DEGREES)(batch, generator).positions - batch.positions
    assert float(moved.square().mean().sqrt()) < 1.1 * raw  # the smaller side moves, published is the second atom's
    assert aligned < TAU


def test_degrees_passed_as_radians_are_refused_and_would_tear_molecules_apart(generator: torch.Generator) -> None:
    with pytest.raises(
        ValueError, match=r"in radians, and 2.0 rad are 115°; for 2.0° pass math.radians\(2.0\), or limit=2.0"
    ):
        RotorNoise(2.0)
    batch = collate([OCTANE], dtype=torch.float64).select([0] * 100)
    noisy = unbatch(RotorNoise(2.0, limit=2.0)(batch, generator).positions, batch)
    rms = np.mean([aligned_rms(x, batch.positions[: OCTANE.n_atoms]) for x in noisy])
    assert rms > 0.5


@pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan, math.inf])
def test_noise_without_a_size_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=rf"sigma must be positive and finite \(rad\), got {sigma}"):
        RotorNoise(sigma)


@pytest.mark.parametrize(("molecules", "count"), [([WATER], "1 of 1"), ([ETHANOL, WATER, HELIUM], "2 of 3")])
def test_molecules_whose_bonds_are_unknown_are_refused(
    molecules: list[Molecule], count: str, generator: torch.Generator
) -> None:
    with pytest.raises(ValueError, match=f"^{count} molecules have no bonds with bond orders on record.*SDF, SMILES"):
        FRAD(collate(molecules), generator)


def test_the_clean_batch_stays_as_it_is_and_labels_do_not_come_along(generator: torch.Generator) -> None:
    with_energy = from_smiles("CCO", labels={"energy": -1.0})
    batch = collate([with_energy])
    before = batch.positions.clone()
    noisy = FRAD(batch, generator).batch
    assert torch.equal(batch.positions, before)
    assert (dict(noisy.labels), list(noisy.flags)) == ({}, ["is_equilibrium"])
    assert noisy.topology is batch.topology


def test_the_same_generator_gives_the_same_noise() -> None:
    batch = collate([ASPIRIN, ETHANOL])
    first, again = (FRAD(batch, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.batch.positions, again.batch.positions)


def test_no_molecules_get_no_noise(generator: torch.Generator) -> None:
    for molecules in ([ETHANOL], [WATER]):
        assert FRAD(collate(molecules).select([]), generator).target.shape == (0, 3)
