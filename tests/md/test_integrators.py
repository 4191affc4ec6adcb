import math

import pytest
import torch
from scipy.stats import chi2, kstest

from basinet.md.integrators import (
    Integrator,
    LangevinBAOAB,
    MDState,
    Potential,
    VelocityVerlet,
    init,
    kinetic_energy,
    replica_seeds,
    temperature_of,
)
from basinet.structures.batch import Batch, collate
from basinet.structures.segment import sum_per_molecule
from basinet.units import ACCELERATION, BOLTZMANN
from md_potentials import at, free, morse, named, trap

SMALL = ("H2O", "CH4", "CO", "C2H6")
ROUNDING = 1e-10
"""Å or Å/fs: a few hundred float64 steps on numbers of order one."""


def advance(integrator: Integrator, potential: Potential, state: MDState, n_steps: int) -> MDState:
    for _ in range(n_steps):
        state = integrator.step(potential, state)
    return state


def begin(potential: Potential, batch: Batch, temperature: float, seed: int = 0) -> MDState:
    return init(potential, batch, temperature, replica_seeds(seed, batch.n_molecules))


def energy_swing(dt: float) -> float:
    """Return the largest change of the total energy of a vibrating CO over about four periods, eV."""
    batch = collate([at((0, 0, 0), (1.3, 0, 0))], torch.float64)
    integrator = VelocityVerlet(dt=dt)
    state = begin(morse(), batch, 0.0)
    start = state.energy + kinetic_energy(state)
    swing = 0.0
    for _ in range(round(100 / dt)):
        state = integrator.step(morse(), state)
        swing = max(swing, float((state.energy + kinetic_energy(state) - start).abs()))
    return swing


def test_energy_error_of_velocity_verlet_scales_as_the_square_of_the_time_step() -> None:
    swings = [energy_swing(dt) for dt in (1.0, 0.5, 0.25)]
    ratios = [swings[0] / swings[1], swings[1] / swings[2]]
    assert ratios == pytest.approx([4.0, 4.0], rel=0.05), f"swings {swings} eV"


def test_velocity_verlet_returns_to_its_start_when_time_runs_backwards() -> None:
    start = begin(morse(), collate([named(n) for n in SMALL], torch.float64), 300.0)
    integrator = VelocityVerlet(dt=0.2)
    there = advance(integrator, morse(), start, 200)
    assert (there.batch.positions - start.batch.positions).abs().max() > 0.05, "control: the atoms have moved"
    back = advance(integrator, morse(), there.replace(velocities=-there.velocities), 200)
    assert torch.allclose(back.batch.positions, start.batch.positions, atol=ROUNDING, rtol=0)
    assert torch.allclose(back.velocities, -start.velocities, atol=ROUNDING, rtol=0)


def test_velocity_verlet_conserves_the_momentum_of_every_molecule() -> None:
    state = begin(morse(), collate([named(n) for n in SMALL], torch.float64), 500.0)
    state = advance(VelocityVerlet(dt=0.5), morse(), state, 200)
    momentum = sum_per_molecule(state.masses[:, None] * state.velocities, state.batch)
    assert momentum.abs().max() < 1e-11
    assert (state.masses[:, None] * state.velocities).abs().max() > 0.01, "control: the atoms do move"


def test_the_forces_of_the_test_potential_are_minus_the_gradient_of_its_energy() -> None:
    batch = collate([named(n) for n in SMALL], torch.float64)
    positions = batch.positions.clone().requires_grad_()
    energy, forces = morse()(batch.replace(positions=positions))
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    assert torch.allclose(forces, -gradient, atol=ROUNDING, rtol=0)


def test_a_force_accelerates_by_force_over_mass_in_units_of_the_package() -> None:
    # ASE's own units: a constant force of 1 eV/Å on He for 10 fs.
    from ase import units
    from ase.data import atomic_masses

    state = begin(
        lambda b: (torch.zeros(1, dtype=torch.float64), torch.ones_like(b.positions)),
        collate([named("He")], torch.float64),
        0.0,
    )
    state = advance(VelocityVerlet(dt=1.0), lambda b: (state.energy, torch.ones_like(b.positions)), state, 10)
    expected = 1.0 / atomic_masses[2] * (10 * units.fs) * units.fs  # Å/fs
    assert state.velocities[0, 0].item() == pytest.approx(expected, rel=1e-6)  # CODATA 2014 in ASE, 2018 here


@pytest.mark.parametrize(
    "integrator",
    [VelocityVerlet(dt=0.5), LangevinBAOAB(dt=0.5, temperature=0.0, friction=0.02)],
    ids=["NVE", "cooling"],
)
def test_a_batch_moves_as_its_molecules_one_by_one(integrator: Integrator) -> None:
    batch = collate([named(n) for n in SMALL], torch.float64)
    start = begin(morse(), batch, 300.0)
    together = advance(integrator, morse(), start, 100)
    for i in range(batch.n_molecules):
        atoms = batch.molecule == i
        one = begin(morse(), batch.select([i]), 0.0).replace(velocities=start.velocities[atoms])
        alone = advance(integrator, morse(), one, 100)
        assert torch.allclose(together.batch.positions[atoms], alone.batch.positions, atol=ROUNDING, rtol=0)
        assert together.energy[i].item() == pytest.approx(alone.energy.item(), abs=1e-10)


@pytest.mark.parametrize("integrator", [VelocityVerlet(), LangevinBAOAB(temperature=300.0)], ids=["NVE", "NVT"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_dtype_of_the_batch_is_kept_and_the_start_is_untouched(integrator: Integrator, dtype: torch.dtype) -> None:
    batch = collate([named("H2O"), named("He")], dtype)
    before = batch.positions.clone()
    state = advance(integrator, morse(), begin(morse(), batch, 300.0), 3)
    assert state.batch.positions.dtype == state.velocities.dtype == dtype
    assert state.energy.dtype == torch.float64
    assert torch.equal(batch.positions, before)


def test_start_velocities_have_no_momentum_and_the_canonical_distribution_of_what_is_left() -> None:
    batch = collate([named("H2O")] * 2000, torch.float64)
    state = begin(free, batch, 400.0)
    momentum = sum_per_molecule(state.masses[:, None] * state.velocities, batch)
    assert momentum.abs().max() < 1e-14
    # 2K/kT follows chi-squared with 3N - 3 = 6 degrees of freedom.
    result = kstest((2 * kinetic_energy(state) / (BOLTZMANN * 400.0)).numpy(), chi2(6).cdf)
    assert result.pvalue > 1e-3


def test_a_single_atom_starts_at_rest_and_has_no_temperature() -> None:
    state = begin(free, collate([named("He")], torch.float64), 300.0)
    assert state.velocities.abs().max() < 1e-15
    assert temperature_of(kinetic_energy(state), VelocityVerlet().degrees_of_freedom(state.batch)).isnan().all()


def test_langevin_keeps_the_closed_form_variances_of_a_harmonic_oscillator() -> None:
    """Positions exact, kinetic energy low by 1 - (w dt)²/4 = 4 % at this step; bound: four standard errors."""
    temperature, frequency, dt = 300.0, 0.2, 2.0
    batch = collate([named("He")] * 4000, torch.float64)
    stiffness = 4.002602 * frequency**2 / ACCELERATION
    integrator = LangevinBAOAB(dt=dt, temperature=temperature, friction=0.05)
    state = advance(integrator, trap(stiffness), begin(trap(stiffness), batch, temperature), 100)
    kinetic, potential = [], []
    for _ in range(10):
        state = advance(integrator, trap(stiffness), state, 40)  # 80 fs: four decay times
        kinetic.append(kinetic_energy(state).mean().item())
        potential.append(state.energy.mean().item())
    half_kt = 1.5 * BOLTZMANN * temperature
    standard_error = math.sqrt(2 / (3 * 4000 * 10))
    assert sum(potential) / 10 / half_kt == pytest.approx(1.0, abs=4 * standard_error)
    assert sum(kinetic) / 10 / half_kt == pytest.approx(1 - (frequency * dt) ** 2 / 4, abs=4 * standard_error)


def test_langevin_gives_the_maxwell_boltzmann_distribution_of_the_kinetic_energy() -> None:
    """From rest to 500 K in a Morse molecule; chi-squared with all 3N = 9 degrees of freedom (Kolmogorov-Smirnov)."""
    batch = collate([at((0, 0, 0), (1.2, 0, 0), (0.6, 1.04, 0))] * 600, torch.float64)
    integrator = LangevinBAOAB(dt=0.5, temperature=500.0, friction=0.05)
    soft = trap(0.5)
    state = advance(integrator, soft, begin(soft, batch, 0.0), 300)
    reduced = 2 * kinetic_energy(state) / (BOLTZMANN * 500.0)
    assert kstest(reduced.numpy(), chi2(9).cdf).pvalue > 1e-3
    assert kstest(reduced.numpy(), chi2(6).cdf).pvalue < 1e-6, "control: the test tells 9 degrees of freedom from 6"


def test_the_same_seed_gives_the_same_trajectory() -> None:
    batch = collate([named("CH4")], torch.float64)
    ends = []
    for seed in (1, 1, 2):
        state = begin(morse(), batch, 300.0, seed)
        ends.append(advance(LangevinBAOAB(temperature=300.0), morse(), state, 5).batch.positions)
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_values_that_make_no_sense_are_refused_with_the_reason() -> None:
    batch = collate([named("CO")], torch.float32)
    with pytest.raises(ValueError, match=r"dt must be positive \(fs"):
        VelocityVerlet(dt=0.0)
    with pytest.raises(ValueError, match="friction must be positive .* use VelocityVerlet"):
        LangevinBAOAB(temperature=300.0, friction=0.0)
    with pytest.raises(ValueError, match="temperature must be zero or positive"):
        begin(free, batch, -1.0)
    with pytest.raises(ValueError, match=r"expected \[1\] float64"):
        begin(lambda b: (torch.zeros(1), torch.zeros_like(b.positions)), batch, 300.0)
    with pytest.raises(ValueError, match="like the positions"):
        begin(lambda b: (torch.zeros(1, dtype=torch.float64), torch.zeros(2, 3).double()), batch, 300.0)
