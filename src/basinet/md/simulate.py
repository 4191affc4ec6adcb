"""Run the dynamics of a batch of molecules and keep a record of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from basinet.md.integrators import Integrator, MDState, Potential, init, kinetic_energy, temperature_of
from basinet.structures.batch import Batch

TEMPERATURE_RANGE = (0.1, 1e5)
"""K. Outside it a run counts as failed: the limits of Fu et al., "Forces are not Enough" (TMLR 2023), MDsim code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What a simulation recorded, on the CPU.

    A molecule that failed has NaN in every record from its failure on: there is no trajectory after it. Records stop
    early when all molecules have failed, so ``times`` may end before ``duration``.
    """

    batch: Batch
    """The molecules as they were at the start."""
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
    """The length that was asked for, fs."""
    n_force_calls: int
    """Calls of the potential, each for the whole batch: one at the start and one per step."""

    @property
    def total_energy(self) -> Float64[Tensor, "n_records n_molecules"]:
        """Potential plus kinetic energy, eV: what constant-energy dynamics conserves."""
        return self.potential_energy + self.kinetic_energy


def simulate(
    potential: Potential,
    batch: Batch,
    integrator: Integrator,
    *,
    n_steps: int,
    record_every: int,
    temperature: float,
    generator: torch.Generator,
    temperature_range: tuple[float, float] = TEMPERATURE_RANGE,
    on_progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Run ``n_steps`` from Maxwell-Boltzmann velocities and record every ``record_every``-th state, the first included.

    A molecule fails at the first step where its energy, a force, a position or a velocity is not finite, or where its
    temperature leaves ``temperature_range``. It is then held at its last good positions while the others go on. Broken
    bonds do not stop a run: see :func:`basinet.md.observables.stability_time`.

    Args:
        potential: energies and forces of a batch.
        batch: the start; use one molecule several times for replicas, they draw different velocities.
        integrator: the equations of motion and the time step.
        n_steps: number of steps; the potential is called once more than that, for the start.
        record_every: steps between records.
        temperature: of the velocities at the start, K.
        generator: source of the velocities and of the noise of a thermostat, on the device of the batch.
        temperature_range: lowest and highest instantaneous temperature allowed, K.
        on_progress: called at each record with the steps done and ``n_steps``.
    """
    _check(n_steps, record_every, temperature, temperature_range)
    state = init(potential, batch, temperature, generator)
    log = _Log(integrator)
    failed = _fails(state, integrator, temperature_range)
    failed_step = torch.where(failed, 0, -1)
    state = _hold(state, state, failed)
    log.record(0, state, failed)
    step = 0
    for step in range(1, n_steps + 1):
        moved = integrator.step(potential, state, generator)
        new = ~failed & _fails(moved, integrator, temperature_range)
        failed_step = torch.where(new, step, failed_step)
        failed = failed | new
        state = _hold(moved, state, failed)
        if step % record_every == 0:
            log.record(step, state, failed)
            if on_progress is not None:
                on_progress(step, n_steps)
            if bool(failed.all()):
                break
    return log.trajectory(batch.without_labels(), failed_step, n_steps, n_force_calls=step + 1)


def _fails(
    state: MDState, integrator: Integrator, temperature_range: tuple[float, float]
) -> Bool[Tensor, " n_molecules"]:
    """Tell which molecules have a value that is not finite or a temperature out of range."""
    values = torch.cat([state.batch.positions, state.velocities, state.forces], dim=1)  # [N, 9]
    bad_atom = ~torch.isfinite(values).all(dim=1)
    bad = torch.zeros_like(state.energy).index_add(0, state.batch.molecule, bad_atom.double()) > 0
    warmth = temperature_of(kinetic_energy(state), integrator.degrees_of_freedom(state.batch))
    low, high = temperature_range
    return bad | ~torch.isfinite(state.energy) | (warmth < low) | (warmth > high)


def _hold(moved: MDState, before: MDState, failed: Bool[Tensor, " n_molecules"]) -> MDState:
    """Put failed molecules back to where they were, at rest and without forces, so that they cannot harm the others."""
    atoms = failed[moved.batch.molecule][:, None]
    positions = torch.where(atoms, before.batch.positions, moved.batch.positions)
    return moved.replace(
        batch=moved.batch.replace(positions=positions),
        velocities=torch.where(atoms, 0.0, moved.velocities),
        forces=torch.where(atoms, 0.0, moved.forces),
    )


class _Log:
    """Collects records on the CPU, with NaN for molecules that failed."""

    def __init__(self, integrator: Integrator) -> None:
        self.integrator = integrator
        self.steps: list[int] = []
        self.positions: list[Tensor] = []
        self.rows: list[Tensor] = []
        """Potential energy, kinetic energy and temperature, [3, n_molecules] each."""

    def record(self, step: int, state: MDState, failed: Bool[Tensor, " n_molecules"]) -> None:
        """Add one record."""
        kinetic = kinetic_energy(state)
        warmth = temperature_of(kinetic, self.integrator.degrees_of_freedom(state.batch))
        row = torch.stack([state.energy, kinetic, warmth])
        self.steps.append(step)
        self.rows.append(torch.where(failed, torch.nan, row).cpu())
        self.positions.append(
            torch.where(failed[state.batch.molecule][:, None], torch.nan, state.batch.positions).cpu()
        )

    def trajectory(
        self, start: Batch, failed_step: Int64[Tensor, " n_molecules"], n_steps: int, n_force_calls: int
    ) -> Trajectory:
        """Stack the records."""
        dt = self.integrator.dt
        potential, kinetic, warmth = torch.stack(self.rows, dim=1)
        failed_step = failed_step.cpu()
        return Trajectory(
            batch=start.to("cpu"),
            times=torch.tensor(self.steps, dtype=torch.float64) * dt,
            positions=torch.stack(self.positions),
            potential_energy=potential,
            kinetic_energy=kinetic,
            temperature=warmth,
            failure_time=torch.where(failed_step >= 0, failed_step.double() * dt, math.inf),
            duration=n_steps * dt,
            n_force_calls=n_force_calls,
        )


def _check(n_steps: int, record_every: int, temperature: float, temperature_range: tuple[float, float]) -> None:
    if n_steps < 1 or record_every < 1:
        raise ValueError(f"n_steps and record_every must be at least 1, got {n_steps} and {record_every}")
    low, high = temperature_range
    if not low <= temperature <= high:
        raise ValueError(
            f"the start temperature {temperature} K lies outside temperature_range {low} to {high} K, so every "
            f"molecule would fail at time 0; to start from rest pass temperature_range=(0.0, {high})"
        )
