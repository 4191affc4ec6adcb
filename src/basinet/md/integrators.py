r"""Integrators of Newton's and Langevin's equations, for all molecules of a batch at once.

A state comes from :func:`init`; an integrator turns it into the next state with exactly one call of the potential::

    integrator = LangevinBAOAB(dt=0.5, temperature=300.0, friction=0.01)
    state = init(potential, batch, temperature=300.0, seeds=replica_seeds(0, batch.n_molecules))
    for _ in range(1000):
        state = integrator.step(potential, state)

The molecules of a batch do not see each other: each follows the trajectory it would follow alone, random forces
included (:mod:`basinet.md.integrators`).

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
"""Steps whose numbers are drawn together: to enter a stream costs more than to read it."""
MAX_SEED = 2**63
"""Seeds and numbers of replicas are below it, so that two of them make one key of 128 bits."""


def replica_seeds(seed: int, n_replicas: int) -> tuple[int, ...]:
    """Return the seeds of replicas 0, 1, 2 ... of a run: the first of them are the same for any number of replicas."""
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed must be 0 to 2^63 - 1, got {seed}")
    return tuple(seed * MAX_SEED + replica for replica in range(n_replicas))


class Streams:
    """Normal random numbers for the atoms of a batch.

    Args:
        batch: the replicas; gives the number of atoms of each, device and dtype.
        seeds: one per replica, as :func:`replica_seeds` makes them.
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
        """Return the numbers for the velocities at the start."""
        return self._draw(0, 1)[0]

    def at(self, step: int) -> Float64[Tensor, "n_atoms 3"]:
        """Return the numbers of a step."""
        block, place = divmod(step, BLOCK)
        if block != self._block or self._numbers is None:
            self._numbers, self._block = self._draw(block + 1, BLOCK), block
        return self._numbers[place]

    def _draw(self, block: int, n_steps: int) -> Float64[Tensor, "n_steps n_atoms 3"]:
        """Draw on the CPU, where the streams are, and move the numbers to the replicas."""
        drawn = [
            np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, block])).standard_normal((n_steps, n, 3))
            for seed, n in zip(self.seeds, self._n_atoms, strict=True)
        ]
        return torch.from_numpy(np.concatenate(drawn, axis=1)).to(self._like.device)


Temperature = float | tuple[float, ...]
"""K, of all molecules, or of each."""
Potential = Callable[[Batch], tuple[Tensor, Tensor]]
"""Returns the energies [n_molecules], float64, eV, and the forces [n_atoms, 3], eV/Å, dtype of the positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MDState:
    """Positions and velocities of all molecules at one time, with the energies and forces that belong to them."""

    batch: Batch
    velocities: Float[Tensor, "n_atoms 3"]
    """Å/fs."""
    energy: Float64[Tensor, " n_molecules"]
    """Potential energy, eV."""
    forces: Float[Tensor, "n_atoms 3"]
    """eV/Å."""
    masses: Float[Tensor, " n_atoms"]
    """amu."""
    streams: Streams
    """Random numbers of each molecule."""
    thermostat: Float64[Tensor, "n_molecules 2"]
    """What a thermostat remembers of each molecule, as its integrator says; zero without one."""
    step: int = 0
    """Steps done; with the seeds it is all there is to know about the random numbers."""

    def replace(self, **changes: object) -> "MDState":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Integrator(ABC):
    """One step of time, and how many degrees of freedom share the kinetic energy.

    The number of degrees of freedom belongs to the integrator because it follows from what the motion conserves: a
    temperature computed with the wrong number is wrong by 10 % for a molecule of ten atoms.
    """

    dt: float
    """Time step, fs."""
    conserves_momentum: ClassVar[bool]
    """Whether the centre of mass goes on as it started; a run then starts it at rest."""

    @abstractmethod
    def step(self, potential: Potential, state: MDState) -> MDState:
        """Return the state one ``dt`` later, from one call of the potential."""

    @abstractmethod
    def bath_energy(self, state: MDState) -> Float64[Tensor, " n_molecules"]:
        """Return the energy that each molecule gave to its bath, eV.

        Together with the potential and the kinetic energy it is conserved, up to the error of the time step: the drift
        of the sum tells whether a step is too long, and forces consistent, with a thermostat as without.
        """

    def degrees_of_freedom(self, batch: Batch) -> Int[Tensor, " n_molecules"]:
        """Return the number of degrees of freedom of each molecule that hold kinetic energy kT/2 each.

        3N, or 3N - 3 where the centre of mass does not move.
        """
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
        """Refuse a time step that does not go forward."""
        check_positive("dt", self.dt, "fs")

    def step(self, potential: Potential, state: MDState) -> MDState:
        """Return the state one ``dt`` later; the motion is deterministic."""
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
    """Rate of the coupling to the bath, 1/fs; the velocity forgets itself in 1/friction."""
    conserves_momentum: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse values that are no time step, temperature or rate."""
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
        """Return the heat that went to the bath so far, eV."""
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
    chi-squared distribution with 3N - 3 degrees of freedom and mean (3N - 3) kT/2. Rotation is left in. A single atom
    is at rest.

    Args:
        potential: energies and forces of a batch.
        batch: the molecules to start from; their labels are dropped, because they do not move along.
        temperature: K; 0 starts from rest.
        seeds: of the random numbers of each molecule, as :func:`~basinet.md.integrators.replica_seeds` makes them.
        zero_momentum: ``False`` leaves the velocity of the centre of mass in: 3N degrees of freedom.
    """
    check_temperature(temperature)
    batch = batch.without_labels()
    masses = torch.as_tensor(atomic_masses).to(batch.positions)[batch.atomic_numbers]
    streams = Streams(batch, seeds)
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
    """Return the temperature of each molecule, K.

    Raises:
        ValueError: there are several temperatures, and not as many as molecules.
    """
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
    """Return the instantaneous temperature 2K/(f k), K; NaN where f is zero, for nothing there can be warm."""
    return torch.where(degrees_of_freedom > 0, 2 * kinetic / (BOLTZMANN * degrees_of_freedom.double()), torch.nan)


def kick(state: MDState, time: float) -> Float[Tensor, "n_atoms 3"]:
    """Return the velocities after the present forces acted for ``time`` fs."""
    return state.velocities + (time * ACCELERATION) * state.forces / state.masses[:, None]


def _second_kick(potential: Potential, moved: MDState, time: float) -> MDState:
    """Evaluate the potential at the new positions and let the new forces act."""
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
