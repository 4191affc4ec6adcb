import dataclasses
from itertools import islice

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, SCFError

from basinet.data.chemistry.conformers import GenerationError, embed, force_field_hessian
from basinet.data.generation.sampling import Surface, displace, is_intact, langevin, relax
from basinet.data.workers import one_thread
from basinet.structures import Molecule
from basinet.units import BOLTZMANN

pytest.importorskip("rdkit")
with one_thread():
    pytest.importorskip("tblite.ase")

STIFFNESS = 20.0
"""eV/Å²: of ``Springs``, about a single bond."""


class Springs(Calculator):
    """Three independent springs on every atom."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions
        self.results = {"energy": 0.5 * STIFFNESS * (x**2).sum(), "forces": -STIFFNESS * x}


class Failing(Calculator):
    """Fails as asked: without a converged wave function, or with a wrong number."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        if self.parameters["how"] == "scf":
            raise SCFError("not converged")
        self.results = {"energy": 0.0, "forces": np.full((len(self.atoms), 3), self.parameters["how"])}


def surface_of(smiles, seed=0, calculator="gfn2-xtb", **options):
    [molecule] = embed(smiles, seed)
    return Surface(molecule, calculator, options)


@pytest.mark.parametrize("smiles", ["O", "CCO", "[C-]#[O+]", "[NH4+]", "[He]", "CC(=O)Nc1ccccc1"])
def test_no_force_at_the_minimum_is_larger_than_fmax(smiles):
    surface = surface_of(smiles)
    minimum = relax(surface, force_field_hessian(surface.molecule), fmax=0.02, max_steps=100)
    assert np.linalg.norm(minimum.forces, axis=1).max() < 0.02
    assert minimum.energy <= surface(surface.molecule.positions).energy


def test_the_curvatures_of_the_force_field_save_steps():
    molecule = surface_of("CC(=O)OC", seed=1).molecule
    evaluations = []
    for hessian in (force_field_hessian(molecule), 70.0 * np.eye(3 * molecule.n_atoms)):  # 70 eV/Å²: ASE's default
        surface = Surface(molecule, "gfn2-xtb", {})
        calculate, n = surface.atoms.calc.calculate, [0]

        def counted(*args, calculate=calculate, n=n, **kwargs):
            n[0] += 1
            return calculate(*args, **kwargs)

        surface.atoms.calc.calculate = counted
        relax(surface, hessian, fmax=0.02, max_steps=200)
        evaluations.append(n[0])
    assert evaluations[0] < evaluations[1]


def test_a_relaxation_that_does_not_converge_has_a_reason():
    surface = surface_of("CC(=O)OC")
    with pytest.raises(GenerationError, match="^relaxation does not converge$"):
        relax(surface, force_field_hessian(surface.molecule), fmax=1e-3, max_steps=1)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("scf", "calculation failed"), (float("nan"), "energy or forces not finite"), (1e4, "forces too large")],
)
def test_a_calculation_that_cannot_be_used_has_a_reason(how, reason):
    surface = surface_of("O", calculator=f"{__name__}:Failing", how=how)
    with pytest.raises(GenerationError, match=f"^{reason}$"):
        surface(surface.molecule.positions)


@pytest.mark.parametrize("timestep", [0.5, 2.5])
def test_springs_hold_half_kt_per_coordinate_at_any_stable_time_step(timestep):
    """BAOAB samples the positions of a harmonic oscillator exactly."""
    temperature, n_atoms = 600.0, 60
    molecule = Molecule(
        atomic_numbers=np.full(n_atoms, 6),
        positions=np.arange(3.0 * n_atoms).reshape(-1, 3),
        bonds=np.zeros((0, 2), int),
    )
    surface = Surface(molecule, f"{__name__}:Springs", {})
    generator = np.random.default_rng(1)
    frames = langevin(surface, surface(np.zeros((n_atoms, 3))), temperature, timestep, generator)
    energies = [frame.energy for frame in islice(frames, 400, 2400)]
    expected = 3 * n_atoms * 0.5 * BOLTZMANN * temperature
    # 180 coordinates, 2000 steps of at least 0.5 fs with a memory of about 50 fs: 20 independent samples or more
    error = np.sqrt(2 / (3 * n_atoms) / 20)
    assert abs(np.mean(energies) / expected - 1) < 4 * error


def test_dynamics_reaches_the_temperature_within_a_few_steps():
    surface = surface_of("CCCO")
    minimum = relax(surface, force_field_hessian(surface.molecule), fmax=0.03, max_steps=100)
    frames = list(islice(langevin(surface, minimum, 500.0, 2.0, np.random.default_rng(0)), 60))
    vibrations = 3 * surface.molecule.n_atoms - 6
    potential = np.mean([frame.energy - minimum.energy for frame in frames[4:]])
    assert 0.7 < potential / (0.5 * vibrations * BOLTZMANN * 500.0) < 1.3
    assert all(is_intact(surface.molecule, frame.positions) for frame in frames)


def test_displacements_have_the_stated_size():
    surface = surface_of("CCCCCC")
    minimum = surface(surface.molecule.positions)
    generator = np.random.default_rng(0)
    moves = np.stack([displace(minimum, 0.05, generator) - minimum.positions for _ in range(200)])
    assert abs(moves.std() - 0.05) < 0.05 * 4 / np.sqrt(2 * moves.size)


def test_broken_and_formed_bonds_are_noticed_and_vibrations_are_not():
    molecule = surface_of("CCO").molecule
    assert is_intact(molecule, molecule.positions)
    assert is_intact(molecule, 1.1 * molecule.positions)
    hydrogen = molecule.n_atoms - 1  # of the hydroxyl group
    apart = molecule.positions.copy()
    apart[hydrogen] += 2.0
    assert not is_intact(molecule, apart)
    moved = molecule.positions.copy()
    moved[hydrogen] = moved[0] + [0.0, 0.0, 1.0]
    assert not is_intact(dataclasses.replace(molecule, bonds=molecule.bonds[:-1], bond_orders=None), moved)
    with pytest.raises(ValueError, match="no bonds on record"):
        is_intact(dataclasses.replace(molecule, bonds=None, bond_orders=None), molecule.positions)
