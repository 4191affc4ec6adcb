"""Run short dynamics of a batch of molecules, with the trajectory in memory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from basinet.md.dynamics import TEMPERATURE_RANGE, Dynamics, Observer, Record, StopWhen, start
from basinet.md.integrators import Integrator, Potential, replica_seeds
from basinet.structures.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The records of a simulation, on the CPU.

    A molecule has NaN in every record from its failure on. Records end when all molecules have failed, so ``times`` may
    end before ``duration``.
    """

    batch: Batch
    """The initial molecules."""
    times: Float64[Tensor, " n_records"]
    """fs, from 0."""
    positions: Float[Tensor, "n_records n_atoms 3"]
    """Å."""
    potential_energy: Float64[Tensor, "n_records n_molecules"]
    """eV."""
    kinetic_energy: Float64[Tensor, "n_records n_molecules"]
    """eV."""
    temperature: Float64[Tensor, "n_records n_molecules"]
    """Instantaneous temperature, K, with the degrees of freedom of the integrator; NaN where there are none."""
    failure_time: Float64[Tensor, " n_molecules"]
    """Time of the first step, fs, with a value that is not finite or a temperature out of range; infinite if none."""
    duration: float
    """Requested length, fs."""
    n_force_calls: int
    """Calls of the potential for the whole batch: one for the initial state and one per step."""

    @property
    def total_energy(self) -> Float64[Tensor, "n_records n_molecules"]:
        """Potential plus kinetic energy, eV: conserved by constant-energy dynamics."""
        return self.potential_energy + self.kinetic_energy


def simulate(
    potential: Potential,
    batch: Batch,
    integrator: Integrator,
    *,
    n_steps: int,
    record_every: int,
    temperature: float,
    seed: int,
    temperature_range: tuple[float, float] = TEMPERATURE_RANGE,
    stop_when: Mapping[str, StopWhen] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Run ``n_steps`` from Maxwell-Boltzmann velocities and record every ``record_every``-th state, the first included.

    A molecule that fails (:class:`~basinet.md.dynamics.Dynamics`) is frozen while the others continue. Broken bonds
    stop a molecule only through ``stop_when``; see :func:`basinet.md.observables.stability_time`.

    Args:
        potential: energies and forces of a batch.
        batch: initial molecules; repeat a molecule for replicas, each draws its own velocities.
        integrator: equations of motion and time step.
        n_steps: number of steps.
        record_every: steps between records.
        temperature: temperature of the initial velocities, K.
        seed: seed for velocities and random forces.
        temperature_range: lowest and highest instantaneous temperature allowed, K.
        stop_when: further conditions that stop a molecule, by reason.
        on_progress: called at each record with the steps done and ``n_steps``.
    """
    _check(n_steps, temperature, temperature_range)
    log = _Log()
    state = start(potential, batch, integrator, temperature, replica_seeds(seed, batch.n_molecules))
    dynamics = Dynamics(
        potential,
        state,
        integrator,
        record_every=record_every,
        temperature_range=temperature_range,
        stop_when=stop_when,
        observers=[log],
    )
    dynamics.run(n_steps, on_record=lambda record: on_progress and on_progress(record.step, n_steps))
    return log.trajectory(batch.without_labels(), dynamics, n_steps)


class _Log(Observer):
    """Collects records on the CPU, with NaN for failed molecules."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.positions: list[Tensor] = []
        self.rows: list[Tensor] = []
        """Potential energy, kinetic energy and temperature, [3, n_molecules] each."""

    def observe(self, record: Record) -> None:
        """Add one record."""
        state = record.state
        row = torch.stack([state.energy, record.kinetic, record.temperature])
        self.times.append(record.time)
        self.rows.append(torch.where(record.active, row, torch.nan).cpu())
        atoms = record.active[state.batch.molecule][:, None]
        self.positions.append(torch.where(atoms, state.batch.positions, torch.nan).cpu())

    def trajectory(self, begin: Batch, dynamics: Dynamics, n_steps: int) -> Trajectory:
        """Stack the records."""
        potential, kinetic, temperature = torch.stack(self.rows, dim=1)
        failure_time = torch.full((begin.n_molecules,), math.inf, dtype=torch.float64)
        for failure in dynamics.failures:
            failure_time[failure.molecule] = failure.time
        return Trajectory(
            batch=begin.to("cpu"),
            times=torch.tensor(self.times, dtype=torch.float64),
            positions=torch.stack(self.positions),
            potential_energy=potential,
            kinetic_energy=kinetic,
            temperature=temperature,
            failure_time=failure_time,
            duration=n_steps * dynamics.integrator.dt,
            n_force_calls=dynamics.n_force_calls,
        )


def _check(n_steps: int, temperature: float, temperature_range: tuple[float, float]) -> None:
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    low, high = temperature_range
    if not low <= temperature <= high:
        raise ValueError(
            f"the start temperature {temperature} K lies outside temperature_range {low} to {high} K, so every "
            f"molecule would fail at time 0; to start from rest pass temperature_range=(0.0, {high})"
        )
