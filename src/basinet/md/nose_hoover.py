"""Integrate Nosé-Hoover dynamics as in the benchmark "Forces are not Enough", a thermostat for each molecule."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from basinet.md.integrators import (
    Integrator,
    MDState,
    Potential,
    Temperature,
    check_positive,
    check_temperature,
    kinetic_energy,
    temperatures,
)
from basinet.structures.batch import Batch
from basinet.units import ACCELERATION, BOLTZMANN


@dataclass(frozen=True, slots=True, kw_only=True)
class NoseHoover(Integrator):
    r"""Nosé-Hoover dynamics as in the code of Fu et al. (TMLR 2023), step for step.

    .. math::

        x     &\leftarrow x + v\,dt + (a - \zeta v)\, dt^2/2 \\
        v_h   &= v + (a - \zeta v)\, dt/2 \\
        a     &\leftarrow F(x)/m \\
        \zeta &\leftarrow \zeta + (K(v) - K_0)\, dt/2Q \\
        \zeta &\leftarrow \zeta + (K(v_h) - K_0)\, dt/2Q \\
        v     &\leftarrow (v_h + a\, dt/2) / (1 + \zeta\, dt/2)

    with :math:`K_0 = 3N kT/2` and :math:`Q = 3N kT\, (n\,dt)^2`.

    ================  ==================================================
    :math:`\zeta`     ``thermostat[:, 0]``, 1/fs
    :math:`n`         ``relaxation``, steps
    :math:`Q`         eV fs²
    ================  ==================================================

    The rate of :math:`\zeta` is half of the textbook's, so the temperature relaxes in :math:`\sqrt 2\, n\, dt`. The
    centre of mass moves: all 3N degrees of freedom count. ``thermostat[:, 1]`` is
    :math:`\int \zeta dt`. The equations conserve :math:`E + K + Q\zeta^2 + 3NkT \int\zeta dt`, this order of operations
    only to first order in the time step: it takes the kinetic energies at :math:`t` and :math:`t + dt/2`, whose mean
    belongs to :math:`t + dt/4`. At 500 K, 1 fs and n = 20 the sum grows by some per cent of K in a picosecond, although
    the temperature is right.

    The motion is deterministic and not ergodic for a few stiff oscillators: prefer :class:`LangevinBAOAB` unless a
    published number is to be reproduced.
    """

    dt: float = 0.5
    temperature: Temperature
    """K; above zero."""
    relaxation: float = 20.0
    """Steps in which the temperature relaxes, up to a factor of the square root of 2."""
    conserves_momentum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check time step, temperature and relaxation."""
        check_positive("dt", self.dt, "fs")
        check_temperature(self.temperature)
        for kelvin in self.temperature if isinstance(self.temperature, tuple) else (self.temperature,):
            check_positive("temperature", kelvin, "K")
        check_positive("relaxation", self.relaxation, "steps")

    def step(self, potential: Potential, state: MDState) -> MDState:
        """Return the state one ``dt`` later."""
        dt, inverse_mass = self.dt, ACCELERATION / state.masses[:, None]
        target, inertia = self._target(state.batch), self._inertia(state.batch)
        zeta = state.thermostat[:, 0]
        slowed = inverse_mass * state.forces - _per_atom(zeta, state) * state.velocities
        half = state.velocities + dt / 2 * slowed
        positions = state.batch.positions + dt * state.velocities + dt**2 / 2 * slowed
        batch = state.batch.replace(positions=positions)
        energy, forces = potential(batch)
        middle = zeta + dt / (2 * inertia) * (kinetic_energy(state) - target)
        after = middle + dt / (2 * inertia) * (kinetic_energy(state.replace(velocities=half)) - target)
        kicked = half + dt / 2 * inverse_mass * forces.detach()
        return state.replace(
            batch=batch,
            velocities=kicked / (1 + dt / 2 * _per_atom(after, state)),
            energy=energy.detach(),
            forces=forces.detach(),
            thermostat=torch.stack([after, state.thermostat[:, 1] + dt * middle], dim=1),
            step=state.step + 1,
        )

    def bath_energy(self, state: MDState) -> Float64[Tensor, " n_molecules"]:
        """Return Q zeta² + 3N kT times the integral of zeta, eV."""
        zeta, integral = state.thermostat.unbind(dim=1)
        return self._inertia(state.batch) * zeta.square() + 2 * self._target(state.batch) * integral

    def _target(self, batch: Batch) -> Float64[Tensor, " n_molecules"]:
        """Return 3N kT/2, eV."""
        return 1.5 * BOLTZMANN * batch.atoms_per_molecule.double() * temperatures(self.temperature, batch)

    def _inertia(self, batch: Batch) -> Float64[Tensor, " n_molecules"]:
        return 2 * self._target(batch) * (self.relaxation * self.dt) ** 2


def _per_atom(x: Float64[Tensor, " n_molecules"], state: MDState) -> Tensor:
    return x.to(state.velocities.dtype)[state.batch.molecule][:, None]
