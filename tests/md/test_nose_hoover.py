"""The thermostat of the benchmark: its order of operations, its limit without a bath, what it conserves."""

import numpy as np
import pytest
import torch
from ase.data import atomic_masses

from basinet.md.integrators import (
    LangevinBAOAB,
    MDState,
    VelocityVerlet,
    init,
    kinetic_energy,
    replica_seeds,
    temperature_of,
)
from basinet.md.nose_hoover import NoseHoover
from basinet.structures.batch import Batch, collate
from basinet.units import ACCELERATION, BOLTZMANN
from md_potentials import at, chain, morse, named, trap


def begin(potential, batch: Batch, temperature: float, seed: int = 0) -> MDState:
    return init(potential, batch, temperature, replica_seeds(seed, batch.n_molecules), zero_momentum=False)


def test_an_infinitely_heavy_thermostat_is_velocity_verlet() -> None:
    batch = collate([named("CH4"), named("CO")], torch.float64)
    start = begin(morse(), batch, 300.0)
    one = two = start
    for _ in range(100):
        one = NoseHoover(dt=0.3, temperature=300.0, relaxation=1e12).step(morse(), one)
        two = VelocityVerlet(dt=0.3).step(morse(), two)
    assert (one.batch.positions - start.batch.positions).abs().max() > 0.05, "control: the atoms have moved"
    assert torch.allclose(one.batch.positions, two.batch.positions, atol=1e-12, rtol=0)
    assert torch.allclose(one.velocities, two.velocities, atol=1e-12, rtol=0)


def by_hand(dt: float, n: int, fs: float = 10.0, *, centred: bool = False) -> list[list[float]]:
    """Follow one coordinate of He in a well, the two others at rest, in the published order.

    ``centred`` takes both kinetic energies in the middle of the step. Returns position, velocity, zeta and conserved
    energy after each step.
    """
    x, v, mass, stiffness, kelvin = 0.1, 0.02, float(atomic_masses[2]), 3.0, 500.0
    k0, q = 1.5 * BOLTZMANN * kelvin, 3 * BOLTZMANN * kelvin * fs**2
    zeta, integral, trace = 0.0, 0.0, []
    for _ in range(n):
        a = -stiffness * x / mass * ACCELERATION
        x = x + v * dt + (a - zeta * v) * dt**2 / 2
        half = v + dt / 2 * (a - zeta * v)
        a = -stiffness * x / mass * ACCELERATION
        zeta += dt / (2 * q) * (0.5 * mass * (half if centred else v) ** 2 / ACCELERATION - k0)
        integral += dt * zeta
        zeta += dt / (2 * q) * (0.5 * mass * half**2 / ACCELERATION - k0)
        v = (half + dt / 2 * a) / (1 + dt / 2 * zeta)
        energy = 0.5 * stiffness * x**2 + 0.5 * mass * v**2 / ACCELERATION
        trace.append([x, v, zeta, energy + q * zeta**2 + 2 * k0 * integral])
    return trace


def test_ten_steps_are_those_of_the_published_order_and_of_the_stored_trace() -> None:
    batch = collate([at((0, 0, 0), number=2)], torch.float64)
    state = begin(trap(3.0), batch, 0.0)
    state = state.replace(batch=batch.replace(positions=torch.tensor([[0.1, 0, 0]], dtype=torch.float64)))
    energy, forces = trap(3.0)(state.batch)
    velocity = torch.tensor([[0.02, 0, 0]], dtype=torch.float64)
    state = state.replace(energy=energy, forces=forces, velocities=velocity)
    expected = by_hand(0.5, 10)
    integrator = NoseHoover(dt=0.5, temperature=500.0)
    for row in expected:
        state = integrator.step(trap(3.0), state)
        found = [state.batch.positions[0, 0].item(), state.velocities[0, 0].item(), state.thermostat[0, 0].item()]
        total = (state.energy + kinetic_energy(state) + integrator.bath_energy(state)).item()
        assert [*found, total] == pytest.approx(row, abs=1e-13)
    assert expected[-1][:3] == pytest.approx(STORED, abs=1e-10)


STORED = [0.1878364935116, 0.0145912678762, 0.0003256148046]
"""Å, Å/fs, 1/fs after ten steps."""


def test_the_published_order_conserves_its_energy_to_first_order_and_a_centred_one_to_second() -> None:
    """The bath is as heavy at every time step, so that all of them follow the same equations."""
    for centred, factor in ((False, 2.0), (True, 4.0)):
        swings = []
        for dt in (0.5, 0.25, 0.125):
            total = np.array(by_hand(dt, round(80 / dt), fs=20.0, centred=centred))[:, 3]
            swings.append(np.abs(total - total[0]).max())
        assert [swings[0] / swings[1], swings[1] / swings[2]] == pytest.approx([factor] * 2, rel=0.05)


@pytest.mark.parametrize("kelvin", [pytest.param(300.0, marks=pytest.mark.slow), 500.0])
def test_an_anharmonic_cluster_has_the_temperature_of_the_bath(kelvin: float) -> None:
    """64 rows of six carbon atoms; the mean temperature after equilibration within 2 %."""
    row = at(*((1.4 * i, 0.1 * (i % 2), 0.05 * i) for i in range(6)))
    batch = collate([row] * 64, torch.float64)
    integrator, state = NoseHoover(dt=1.0, temperature=kelvin), begin(chain(), batch, kelvin)
    temperature = []
    for step in range(3000):
        state = integrator.step(chain(), state)
        if step > 500 and step % 20 == 0:
            temperature.append(
                temperature_of(kinetic_energy(state), integrator.degrees_of_freedom(batch)).mean().item()
            )
    assert np.mean(temperature) == pytest.approx(kelvin, rel=0.02)


def test_every_replica_has_a_bath_of_its_own_and_may_have_its_own_temperature() -> None:
    row = at(*((1.4 * i, 0.1 * (i % 2), 0.05 * i) for i in range(6)))
    batch = collate([row] * 40, torch.float64)
    kelvin = tuple([200.0] * 20 + [600.0] * 20)
    for integrator in (
        NoseHoover(dt=1.0, temperature=kelvin),
        LangevinBAOAB(dt=1.0, temperature=kelvin, friction=0.05),
    ):
        state = init(chain(), batch, kelvin, replica_seeds(0, 40), zero_momentum=False)
        sums = torch.zeros(40, dtype=torch.float64)
        for step in range(1500):
            state = integrator.step(chain(), state)
            if step >= 500:
                sums += temperature_of(kinetic_energy(state), integrator.degrees_of_freedom(batch)) / 1000
        assert sums[:20].mean().item() == pytest.approx(200.0, rel=0.05)
        assert sums[20:].mean().item() == pytest.approx(600.0, rel=0.05)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature must be positive \(K"):
        NoseHoover(temperature=0.0)
    with pytest.raises(ValueError, match=r"relaxation must be positive \(steps"):
        NoseHoover(temperature=300.0, relaxation=0.0)
    batch = collate([named("He")] * 3, torch.float64)
    with pytest.raises(ValueError, match=r"one per molecule \(3\), got 2"):
        begin(trap(1.0), batch, (300.0, 400.0))
