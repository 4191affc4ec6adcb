import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.vibrations import Vibrations

from basinet.data.chemistry.conformers import GenerationError, embed, force_field_hessian
from basinet.data.generation.calculators import make_calculator
from basinet.data.generation.sampling import Surface, hessian, normal_modes, relax
from basinet.data.workers import one_thread
from basinet.units import ACCELERATION, BOLTZMANN, HBAR, WAVENUMBER

pytest.importorskip("rdkit")
with one_thread():
    pytest.importorskip("tblite.ase")

N_SAMPLES = 4000


class Harmonic(Calculator):
    """Springs between all pairs of atoms, at their lengths at rest: harmonic to second order and free to move."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        rest, matrix = self.parameters["rest"], self.parameters["matrix"]
        move = (self.atoms.positions - rest).ravel()
        self.results = {
            "energy": float(0.5 * move @ matrix @ move),
            "forces": -(matrix @ move).reshape(-1, 3),
        }


def harmonic(smiles, scale=1.0):
    """A molecule whose energy is exactly quadratic, with the second derivatives of a network of springs at rest."""
    [molecule] = embed(smiles, seed=1)
    n, x = molecule.n_atoms, molecule.positions
    matrix = np.zeros((n, 3, n, 3))
    for i, j in zip(*np.triu_indices(n, k=1), strict=True):
        direction = (x[i] - x[j]) / np.linalg.norm(x[i] - x[j])
        block = scale * 30.0 * np.outer(direction, direction)  # eV/Å²
        matrix[i, :, i] += block
        matrix[j, :, j] += block
        matrix[i, :, j] -= block
        matrix[j, :, i] -= block
    surface = Surface(molecule, f"{__name__}:Harmonic", {"rest": x, "matrix": matrix.reshape(3 * n, 3 * n)})
    return surface, surface(x), matrix.reshape(3 * n, 3 * n)


def test_finite_differences_give_the_second_derivatives():
    surface, minimum, matrix = harmonic("CCO")
    np.testing.assert_allclose(hessian(surface, minimum), matrix, atol=1e-8)


@pytest.mark.parametrize(("smiles", "n_modes"), [("O", 3), ("CCO", 21), ("C#C", 7), ("[H][H]", 1), ("[He]", 0)])
def test_there_are_3n_minus_6_vibrations_or_5_if_linear(smiles, n_modes):
    [molecule] = embed(smiles, seed=1)
    surface = Surface(molecule, "gfn2-xtb", {})
    minimum = relax(surface, force_field_hessian(molecule), fmax=0.005, max_steps=100)
    modes = normal_modes(surface, minimum)
    assert len(modes.curvatures) == n_modes
    sample = modes.sample(300.0, "classical", np.random.default_rng(0))
    assert sample.shape == (molecule.n_atoms, 3)
    if n_modes == 0:
        np.testing.assert_array_equal(sample, minimum.positions)


def test_classical_amplitudes_have_the_variance_kt_over_k_along_every_mode():
    temperature = 500.0
    surface, minimum, matrix = harmonic("CO")
    modes = normal_modes(surface, minimum)
    generator = np.random.default_rng(0)
    moves = np.stack([modes.sample(temperature, "classical", generator) for _ in range(N_SAMPLES)]) - minimum.positions
    for direction in modes.displacements:
        unit = direction / np.linalg.norm(direction)
        # the variance of the coordinate along u is kT u·H⁺·u, and of the energy in a mode kT/2
        coordinate = np.einsum("sax,ax->s", moves, unit)
        expected = sum(
            BOLTZMANN * temperature / k * np.vdot(other, unit) ** 2
            for k, other in zip(modes.curvatures, modes.displacements, strict=True)
        )
        assert abs(coordinate.var() / expected - 1) < 5 * np.sqrt(2 / N_SAMPLES)
    energies = [surface(minimum.positions + move).energy for move in moves]
    n_modes = 3 * 6 - 6
    assert len(modes.curvatures) == n_modes
    expected = n_modes * BOLTZMANN * temperature / 2
    assert abs(np.mean(energies) / expected - 1) < 5 * np.sqrt(2 / n_modes / N_SAMPLES)
    assert abs(np.var(energies) / (n_modes * (BOLTZMANN * temperature) ** 2 / 2) - 1) < 0.15


def test_a_diatomic_is_the_textbook_oscillator():
    """Along the bond, the variance is kT/k whatever the masses are, and ħ/(2μω) coth(ħω/2kT) for the quantum one."""
    surface, minimum, matrix = harmonic("[H]Cl")
    modes, temperature = normal_modes(surface, minimum), 300.0
    stiffness = matrix[:3, :3].trace()
    reduced = 1.008 * 35.45 / (1.008 + 35.45)
    omega = np.sqrt(stiffness / reduced * ACCELERATION)
    np.testing.assert_allclose(modes.quanta, HBAR * omega, rtol=1e-3)
    quantum = HBAR / (2 * reduced * omega) / np.tanh(HBAR * omega / (2 * BOLTZMANN * temperature)) * ACCELERATION
    for statistics, expected in (("classical", BOLTZMANN * temperature / stiffness), ("quantum", quantum)):
        generator = np.random.default_rng(1)
        samples = np.stack([modes.sample(temperature, statistics, generator) for _ in range(N_SAMPLES)])
        lengths = np.linalg.norm(samples[:, 0] - samples[:, 1], axis=1)
        assert abs(lengths.var() / expected - 1) < 5 * np.sqrt(2 / N_SAMPLES), statistics


def test_the_quantum_oscillator_is_classical_when_hot_and_at_zero_point_when_cold():
    surface, minimum, _ = harmonic("O")
    modes = normal_modes(surface, minimum)
    np.testing.assert_allclose(modes.variances(1e6, "quantum"), modes.variances(1e6, "classical"), rtol=1e-3)
    np.testing.assert_allclose(0.5 * modes.curvatures * modes.variances(1.0, "quantum"), modes.quanta / 4)


def test_samples_neither_move_nor_turn_the_molecule():
    surface, minimum, _ = harmonic("CCO")
    modes = normal_modes(surface, minimum)
    mass = Atoms(surface.molecule.atomic_numbers).get_masses()
    for direction in modes.displacements:
        np.testing.assert_allclose(mass @ direction, 0.0, atol=1e-9)
        centred = minimum.positions - mass @ minimum.positions / mass.sum()
        np.testing.assert_allclose(mass @ np.cross(centred, direction), 0.0, atol=1e-9)


def test_wavenumbers_of_a_molecule_are_those_of_ase(tmp_path):
    [molecule] = embed("O", seed=1)
    surface = Surface(molecule, "gfn2-xtb", {"accuracy": 1e-3})
    minimum = relax(surface, force_field_hessian(molecule), fmax=1e-3, max_steps=200)
    found = normal_modes(surface, minimum).quanta / WAVENUMBER
    atoms = Atoms(molecule.atomic_numbers, minimum.positions, calculator=make_calculator("gfn2-xtb"))
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.005)
    vibrations.run()
    np.testing.assert_allclose(found, np.real(vibrations.get_frequencies())[-3:], rtol=2e-3)


def test_a_saddle_point_is_refused_and_soft_modes_are_held_still():
    surface, minimum, matrix = harmonic("CO")
    surface.atoms.calc.parameters["matrix"] = -matrix
    with pytest.raises(GenerationError, match="^not a minimum$"):
        normal_modes(surface, minimum)
    surface, minimum, _ = harmonic("CO", scale=1e-6)
    assert len(normal_modes(surface, minimum).curvatures) == 0


def test_modes_do_not_depend_on_how_the_molecule_lies():
    """Turning the molecule turns the modes and changes no curvature."""
    [molecule] = embed("CCO", seed=1)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    found = []
    for positions in (molecule.positions, molecule.positions @ turn.T):
        turned = dataclasses.replace(molecule, positions=positions)
        surface = Surface(turned, "gfn2-xtb", {"accuracy": 1e-3})
        minimum = relax(surface, 50.0 * np.eye(3 * molecule.n_atoms), fmax=1e-3, max_steps=400)
        found.append(normal_modes(surface, minimum).quanta / WAVENUMBER)
    np.testing.assert_allclose(*found, rtol=1e-2, atol=2.0)
