r"""Integrate Newton's and Langevin's equations for all molecules of a batch at once.

:func:`init` returns a state; an integrator returns the next state from one call of the potential::

    integrator = LangevinBAOAB(dt=0.5, temperature=300.0, friction=0.01)
    state = init(potential, batch, temperature=300.0, seeds=replica_seeds(0, batch.n_molecules))
    for _ in range(1000):
        state = integrator.step(potential, state)

Each molecule follows the trajectory it would follow alone, random forces included (:class:`RandomStreams`).

Units: Å, fs, amu, eV, K; a velocity is Å/fs. Positions and velocities have the dtype of the batch; energies and sums
over atoms are float64.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from ase.data import atomic_masses
from jaxtyping import Float, Float64, Int
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.structures.segment import sum_per_molecule
from basinet.units import ACCELERATION, BOLTZMANN

BLOCK = 32
"""Steps whose numbers are drawn together: jumping to a place in a stream costs more than reading on."""
MAX_SEED = 2**63
"""Seeds and replica numbers are below it, so that both together fit a key of 128 bits."""


def replica_seeds(seed: int, n_replicas: int) -> tuple[int, ...]:
    """Return the seeds of replicas 0, 1, 2 ...; the seed of a replica does not depend on their number."""
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed must be 0 to 2^63 - 1, got {seed}")
    return tuple(seed * MAX_SEED + replica for replica in range(n_replicas))


class RandomStreams:
    """Normal random numbers for the atoms of a batch, a stream for each replica.

    A number depends on the seed of the replica, the step, the atom and the axis alone: not on the other replicas, the
    device, or where a run was interrupted. So there is no generator state to save. The numbers come from numpy's
    Philox, a counter-based generator that can start anywhere (Salmon et al., SC'11).

    Args:
        batch: the replicas; gives numbers of atoms and device.
        seeds: one per replica, from :func:`replica_seeds`.
    """

    def __init__(self, batch: Batch, seeds: Sequence[int]) -> None:
        if len(seeds) != batch.n_molecules:
            raise ValueError(f"expected one seed per replica, got {len(seeds)} for {batch.n_molecules}")
        self.seeds = tuple(seeds)
        self._n_atoms = batch.atoms_per_molecule.tolist()
        self._like = batch.positions
        self._block = -1
        self._numbers: Tensor | None = None

    def at_start(self) -> Float64[Tensor, "n_atoms 3"]:
        """Return the numbers for the initial velocities."""
        return self._draw(0, 1)[0]

    def at(self, step: int) -> Float64[Tensor, "n_atoms 3"]:
        """Return the numbers for a step."""
        block, place = divmod(step, BLOCK)
        if block != self._block or self._numbers is None:
            self._numbers, self._block = self._draw(block + 1, BLOCK), block
        return self._numbers[place]

    def _draw(self, block: int, n_steps: int) -> Float64[Tensor, "n_steps n_atoms 3"]:
        """Draw on the CPU, so that every device gets the same numbers."""
        drawn = [
            np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, block])).standard_normal((n_steps, n, 3))
            for seed, n in zip(self.seeds, self._n_atoms, strict=True)
        ]
        return torch.from_numpy(np.concatenate(drawn, axis=1)).to(self._like.device)


Temperature = float | tuple[float, ...]
"""K; one for all molecules or one for each."""
Potential = Callable[[Batch], tuple[Tensor, Tensor]]
"""Returns energies [n_molecules], float64, eV, and forces [n_atoms, 3], dtype of the positions, eV/Å."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MDState:
    """Positions, velocities, energies and forces of all molecules at one time."""

    batch: Batch
    velocities: Float[Tensor, "n_atoms 3"]
    """Å/fs."""
    energy: Float64[Tensor, " n_molecules"]
    """Potential energy, eV."""
    forces: Float[Tensor, "n_atoms 3"]
    """eV/Å."""
    masses: Float[Tensor, " n_atoms"]
    """amu."""
    streams: RandomStreams
    """Random numbers for each molecule."""
    thermostat: Float64[Tensor, "n_molecules 2"]
    """Variables of the thermostat of each molecule, defined by the integrator; zero without a thermostat."""
    step: int = 0
    """Steps done; with the seeds, it determines the random numbers."""

    def replace(self, **changes: object) -> "MDState":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Integrator(ABC):
    """Equations of motion and their number of degrees of freedom.

    The number belongs to the integrator because it follows from what the motion conserves. With the wrong number the
    temperature of a molecule of ten atoms is off by 10 %.
    """

    dt: float
    """Time step, fs."""
    conserves_momentum: ClassVar[bool]
    """Whether the momentum of the centre of mass is conserved; then it starts at zero."""

    @abstractmethod
    def step(self, potential: Potential, state: MDState) -> MDState:
        """Return the state one ``dt`` later, from one call of the potential."""

    @abstractmethod
    def bath_energy(self, state: MDState) -> Float64[Tensor, " n_molecules"]:
        """Return the energy that each molecule gave to its bath, eV.

        Its sum with the potential and kinetic energy is conserved up to the error of the time step: a drift means
        that the step is too long or that the forces are not the gradient of the energy, with or without a thermostat.
        """

    def degrees_of_freedom(self, batch: Batch) -> Int[Tensor, " n_molecules"]:
        """Return the number of degrees of freedom of each molecule: 3N, or 3N - 3 if its momentum is conserved."""
        return 3 * batch.atoms_per_molecule - 3 * self.conserves_momentum


@dataclass(frozen=True, slots=True, kw_only=True)
class VelocityVerlet(Integrator):
    r"""Newton's equations at constant energy (Swope et al., J. Chem. Phys. 76, 637 (1982)).

    .. math::

        v(t + \tfrac{dt}{2}) &= v(t) + \tfrac{dt}{2} F(x(t)) / m \\
        x(t + dt) &= x(t) + dt\, v(t + \tfrac{dt}{2}) \\
        v(t + dt) &= v(t + \tfrac{dt}{2}) + \tfrac{dt}{2} F(x(t + dt)) / m

    ==========  ========================================
    :math:`x`   ``state.batch.positions``, Å
    :math:`v`   ``state.velocities``, Å/fs
    :math:`F`   ``state.forces``, eV/Å
    :math:`m`   ``state.masses``, amu
    ==========  ========================================

    Time reversible and symplectic: the energy does not drift but oscillates with an amplitude that scales as dt². The
    momentum is conserved and starts at zero, so 3N - 3 degrees of freedom move.
    """

    dt: float = 0.5
    conserves_momentum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the time step."""
        check_positive("dt", self.dt, "fs")

    def step(self, potential: Potential, state: MDState) -> MDState:
        """Return the state one ``dt`` later."""
        velocities = kick(state, self.dt / 2)
        batch = state.batch.replace(positions=state.batch.positions + self.dt * velocities)
        return _second_kick(potential, state.replace(batch=batch, velocities=velocities), self.dt / 2)

    def bath_energy(self, state: MDState) -> Float64[Tensor, " n_molecules"]:
        """Return zero: there is no bath."""
        return torch.zeros_like(state.energy)


@dataclass(frozen=True, slots=True, kw_only=True)
class LangevinBAOAB(Integrator):
    r"""Langevin dynamics at constant temperature (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34).

    .. math::

        v &\leftarrow v + \tfrac{dt}{2} F / m                                       && \text{(B)} \\
        x &\leftarrow x + \tfrac{dt}{2} v                                           && \text{(A)} \\
        v &\leftarrow c\, v + \sqrt{(1 - c^2)\, kT / m}\; \xi, \quad c = e^{-\gamma\, dt} && \text{(O)} \\
        x &\leftarrow x + \tfrac{dt}{2} v                                           && \text{(A)} \\
        v &\leftarrow v + \tfrac{dt}{2} F / m                                       && \text{(B)}

    ===============  ========================================
    :math:`\gamma`   ``friction``, 1/fs
    :math:`kT`       ``BOLTZMANN * temperature``, eV
    :math:`\xi`      normal random numbers, one per coordinate
    ===============  ========================================

    For a harmonic mode of angular frequency w the positions have exactly the canonical variance at any stable step,
    and the kinetic energy is low by the factor 1 - (w dt)²/4. The centre of mass is driven like every other coordinate:
    all 3N degrees of freedom are thermal. ``thermostat[:, 0]`` is the heat given to the bath in (O), eV; it measures
    the error of the step (Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007)).
    """

    dt: float = 0.5
    temperature: Temperature
    """K."""
    friction: float = 0.01
    """Rate of the coupling to the bath, 1/fs; velocities decorrelate within 1/friction."""
    conserves_momentum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check time step, temperature and friction."""
        check_positive("dt", self.dt, "fs")
        check_temperature(self.temperature)
        check_positive("friction", self.friction, "1/fs; use VelocityVerlet for motion without a bath")

    def step(self, potential: Potential, state: MDState) -> MDState:
        """Return the state one ``dt`` later."""
        keep = math.exp(-self.friction * self.dt)
        velocities = kick(state, self.dt / 2)
        positions = state.batch.positions + self.dt / 2 * velocities
        before = kinetic_energy(state.replace(velocities=velocities))
        thermal = thermal_velocities(state.batch, state.masses, self.temperature, state.streams.at(state.step))
        state = state.replace(velocities=keep * velocities + math.sqrt(1 - keep**2) * thermal)
        heat = torch.stack([before - kinetic_energy(state), torch.zeros_like(before)], dim=1)
        positions = positions + self.dt / 2 * state.velocities
        moved = state.replace(batch=state.batch.replace(positions=positions), thermostat=state.thermostat + heat)
        return _second_kick(potential, moved, self.dt / 2)

    def bath_energy(self, state: MDState) -> Float64[Tensor, " n_molecules"]:
        """Return the heat given to the bath so far, eV."""
        return state.thermostat[:, 0]


def init(
    potential: Potential,
    batch: Batch,
    temperature: Temperature,
    seeds: Sequence[int],
    *,
    zero_momentum: bool = True,
) -> MDState:
    """Return a state with Maxwell-Boltzmann velocities; calls the potential once.

    Each velocity component is normal with variance kT/m; then the velocity of the centre of mass is subtracted, which
    is the Maxwell-Boltzmann distribution given zero momentum. The kinetic energy is not rescaled: it follows a
    chi-squared distribution with 3N - 3 degrees of freedom and mean (3N - 3) kT/2. Rotation remains. A single atom
    is at rest.

    Args:
        potential: energies and forces of a batch.
        batch: the initial molecules; their labels are dropped, as they hold for these positions only.
        temperature: K; 0 starts from rest.
        seeds: seeds of the random numbers of each molecule, from :func:`replica_seeds`.
        zero_momentum: subtract the velocity of the centre of mass; ``False`` leaves 3N degrees of freedom.
    """
    check_temperature(temperature)
    batch = batch.without_labels()
    masses = torch.as_tensor(atomic_masses).to(batch.positions)[batch.atomic_numbers]
    streams = RandomStreams(batch, seeds)
    velocities = thermal_velocities(batch, masses, temperature, streams.at_start())
    if zero_momentum:
        momentum = sum_per_molecule(masses[:, None].double() * velocities.double(), batch)  # [B, 3]
        drift = momentum / sum_per_molecule(masses.double(), batch)[:, None]
        velocities = velocities - drift.to(velocities.dtype)[batch.molecule]
    energy, forces = potential(batch)
    _check_potential(energy, forces, batch)
    return MDState(
        batch=batch,
        velocities=velocities,
        energy=energy.detach(),
        forces=forces.detach(),
        masses=masses,
        streams=streams,
        thermostat=energy.new_zeros((batch.n_molecules, 2)),
    )


def thermal_velocities(
    batch: Batch,
    masses: Float[Tensor, " n_atoms"],
    temperature: Temperature,
    normal: Float64[Tensor, "n_atoms 3"],
) -> Float[Tensor, "n_atoms 3"]:
    """Return Maxwell-Boltzmann velocities, Å/fs: each component is normal with variance kT/m."""
    kelvin = temperatures(temperature, batch)[batch.molecule]
    return (normal * torch.sqrt(BOLTZMANN * kelvin * ACCELERATION / masses.double())[:, None]).to(masses.dtype)


def temperatures(temperature: Temperature, batch: Batch) -> Float64[Tensor, " n_molecules"]:
    """Return the temperature of each molecule, K."""
    given = torch.tensor(temperature, dtype=torch.float64, device=batch.positions.device)
    if given.ndim and len(given) != batch.n_molecules:
        raise ValueError(f"expected one temperature, or one per molecule ({batch.n_molecules}), got {len(given)}")
    return given.expand(batch.n_molecules)


def kinetic_energy(state: MDState) -> Float64[Tensor, " n_molecules"]:
    """Return the sum of m v²/2 over the atoms of each molecule, eV."""
    per_atom = 0.5 / ACCELERATION * state.masses.double() * state.velocities.double().square().sum(dim=1)
    return sum_per_molecule(per_atom, state.batch)


def temperature_of(
    kinetic: Float64[Tensor, " n_molecules"], degrees_of_freedom: Int[Tensor, " n_molecules"]
) -> Float64[Tensor, " n_molecules"]:
    """Return the instantaneous temperature 2K/(f k), K; NaN where f is zero."""
    return torch.where(degrees_of_freedom > 0, 2 * kinetic / (BOLTZMANN * degrees_of_freedom.double()), torch.nan)


def kick(state: MDState, time: float) -> Float[Tensor, "n_atoms 3"]:
    """Return the velocities after the forces acted for ``time`` fs."""
    return state.velocities + (time * ACCELERATION) * state.forces / state.masses[:, None]


def _second_kick(potential: Potential, moved: MDState, time: float) -> MDState:
    """Evaluate the potential at the new positions and apply the new forces."""
    energy, forces = potential(moved.batch)
    moved = moved.replace(energy=energy.detach(), forces=forces.detach(), step=moved.step + 1)
    return moved.replace(velocities=kick(moved, time))


def _check_potential(energy: Tensor, forces: Tensor, batch: Batch) -> None:
    if energy.shape != (batch.n_molecules,) or energy.dtype != torch.float64:
        raise ValueError(
            f"the potential returned energies {list(energy.shape)} {energy.dtype}; expected [{batch.n_molecules}] "
            "float64 (one energy per molecule, eV): float32 cannot resolve the drift of a total energy"
        )
    if forces.shape != batch.positions.shape or forces.dtype != batch.positions.dtype:
        raise ValueError(
            f"the potential returned forces {list(forces.shape)} {forces.dtype}; expected "
            f"{list(batch.positions.shape)} {batch.positions.dtype} like the positions (cast them, or the batch)"
        )


def check_positive(name: str, value: float, unit: str) -> None:
    """Raise a ``ValueError`` unless a value is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive ({unit}), got {value}")


def check_temperature(temperature: Temperature) -> None:
    """Raise a ``ValueError`` unless all temperatures are zero or positive."""
    for kelvin in temperature if isinstance(temperature, tuple) else (temperature,):
        if not (math.isfinite(kelvin) and kelvin >= 0):
            raise ValueError(f"temperature must be zero or positive (K), got {kelvin}")
