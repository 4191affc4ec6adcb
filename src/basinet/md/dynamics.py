"""Run molecular dynamics: steps, failures, records, and a saved state that resumes bit for bit.

Replicas are the molecules of one batch. A replica that fails is frozen while the others continue. Observers
(:class:`Observer`) keep what is wanted of a run: frames on disk, tables, histograms.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from basinet.files import read_torch, write_torch
from basinet.md.integrators import Integrator, MDState, Potential, Temperature, init, kinetic_energy, temperature_of
from basinet.structures.batch import Batch

TEMPERATURE_RANGE = (0.1, 1e5)
"""Allowed temperatures, K: the limits in the code (MDsim) of Fu et al., "Forces are not Enough" (TMLR 2023)."""
NOT_FINITE = "a value is not finite"
OUT_OF_RANGE = "the temperature left its range"

StopWhen = Callable[[MDState], Bool[Tensor, " n_molecules"]]
"""Returns the molecules to stop, called at every record; such as :class:`basinet.md.bonds.BondStretch`."""


class Failure(NamedTuple):
    """Reason and time at which a molecule stopped."""

    molecule: int
    step: int
    time: float
    """fs."""
    reason: str


class Record(NamedTuple):
    """The state at one time, with derived quantities."""

    step: int
    time: float
    """fs."""
    state: MDState
    kinetic: Float64[Tensor, " n_molecules"]
    """eV."""
    temperature: Float64[Tensor, " n_molecules"]
    """K."""
    conserved: Float64[Tensor, " n_molecules"]
    """Potential energy, kinetic energy and energy given to the bath, eV."""
    active: Bool[Tensor, " n_molecules"]
    """Molecules that have not failed. Those that ``stop_when`` stops at this record are still active in it."""


class Observer(ABC):
    """Receives the records of a run."""

    @abstractmethod
    def observe(self, record: Record) -> None:
        """Receive a record."""

    def failed(self, failures: Sequence[Failure], bad: MDState, before: MDState) -> None:
        """Receive new failures, the state in which they happened and the state one step before."""
        del failures, bad, before

    def flush(self) -> None:  # noqa: B027 (an observer may have nothing to write)
        """Write what is still in memory."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors to resume from; called after :meth:`flush`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state; drop what was written after it."""
        del state


def start(
    potential: Potential, batch: Batch, integrator: Integrator, temperature: Temperature, seeds: Sequence[int]
) -> MDState:
    """Return the initial state for an integrator (see :func:`~basinet.md.integrators.init`)."""
    return init(potential, batch, temperature, seeds, zero_momentum=integrator.conserves_momentum)


class Dynamics:
    """A run of molecular dynamics.

    A molecule fails at the first step where its energy, a force, a position or a velocity is not finite or its
    temperature leaves ``temperature_range``, and at the first record where ``stop_when`` selects it.

    Args:
        potential: energies and forces of a batch.
        state: initial state, from :func:`start`.
        integrator: equations of motion and time step.
        record_every: steps between records; step 0 is recorded too.
        temperature_range: lowest and highest instantaneous temperature allowed, K.
        stop_when: further conditions that stop a molecule, by reason.
        observers: receivers of the records.
    """

    def __init__(
        self,
        potential: Potential,
        state: MDState,
        integrator: Integrator,
        *,
        record_every: int,
        temperature_range: tuple[float, float] = TEMPERATURE_RANGE,
        stop_when: Mapping[str, StopWhen] | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if record_every < 1:
            raise ValueError(f"record_every must be at least 1, got {record_every}")
        self.potential, self.state, self.integrator = potential, state, integrator
        self.record_every, self.temperature_range = record_every, temperature_range
        self.stop_when = dict(stop_when or {})
        self.observers = tuple(observers)
        self.failures: list[Failure] = []
        self.failed = torch.zeros_like(state.energy, dtype=torch.bool)
        self.n_force_calls = 1
        """Calls of the potential, including the one for the initial state."""
        self._has_begun = False

    @property
    def time(self) -> float:
        """Simulated time, fs."""
        return self.state.step * self.integrator.dt

    @property
    def all_failed(self) -> bool:
        """Whether every molecule has failed."""
        return len(self.failures) == self.state.batch.n_molecules

    def run(
        self,
        until: int,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        """Run until step ``until``, until ``stop`` returns true, or until every molecule has failed.

        Args:
            until: number of steps, counted from step 0 of the run.
            stop: called after every step.
            on_record: called at each record, after the observers.
        """
        if not self._has_begun:
            self._has_begun = True
            self._accept(self.state, self.state, on_record)
        while self.state.step < until and not self.all_failed and not stop():
            moved = self.integrator.step(self.potential, self.state)
            self.n_force_calls += 1
            self._accept(moved, self.state, on_record)

    def _accept(self, moved: MDState, before: MDState, on_record: Callable[[Record], None] | None) -> None:
        """Freeze failed molecules; record the state if it is due."""
        kinetic = kinetic_energy(moved)
        temperature = temperature_of(kinetic, self.integrator.degrees_of_freedom(moved.batch))
        low, high = self.temperature_range
        not_finite = _not_finite(moved)
        self._fail({NOT_FINITE: not_finite, OUT_OF_RANGE: (temperature < low) | (temperature > high)}, moved, before)
        self.state = _hold(moved, before, self.failed)
        if moved.step % self.record_every:
            return
        conserved = moved.energy + kinetic + self.integrator.bath_energy(moved)
        record = Record(
            moved.step, moved.step * self.integrator.dt, self.state, kinetic, temperature, conserved, ~self.failed
        )
        for observer in self.observers:
            observer.observe(record)
        self._fail({reason: bad(self.state) for reason, bad in self.stop_when.items()}, moved, before)
        self.state = _hold(self.state, self.state, self.failed)
        if on_record is not None:
            on_record(record)

    def _fail(self, reasons: Mapping[str, Bool[Tensor, " n_molecules"]], moved: MDState, before: MDState) -> None:
        """Add the molecules that fail for the first time, each with its first reason."""
        new: list[Failure] = []
        for reason, bad in reasons.items():
            bad = bad & ~self.failed
            if bool(bad.any()):
                time = moved.step * self.integrator.dt
                new += [Failure(i, moved.step, time, reason) for i in torch.nonzero(bad).flatten().tolist()]
                self.failed = self.failed | bad
        if new:
            self.failures += new
            for observer in self.observers:
                observer.failed(new, moved, before)

    def save(self, path: Path) -> None:
        """Write the state of the run and of its observers, atomically."""
        for observer in self.observers:
            observer.flush()
        state = self.state
        content = {
            "step": state.step,
            "begun": self._has_begun,
            "seeds": [str(seed) for seed in state.streams.seeds],
            "atomic_numbers": state.batch.atomic_numbers,
            "positions": state.batch.positions,
            "velocities": state.velocities,
            "energy": state.energy,
            "forces": state.forces,
            "thermostat": state.thermostat,
            "failed": self.failed,
            "failures": [tuple(failure) for failure in self.failures],
            "observers": [observer.state_dict() for observer in self.observers],
        }
        write_torch(path, content)

    def load(self, path: Path) -> None:
        """Resume from a saved state.

        Raises:
            ValueError: the file is damaged, or of other molecules, replicas or seeds.
        """
        saved = read_torch(path, self.state.batch.positions.device)
        same = torch.equal(saved["atomic_numbers"], self.state.batch.atomic_numbers)
        if not same or [int(seed) for seed in saved["seeds"]] != list(self.state.streams.seeds):
            raise ValueError(f"{path} was saved by a run of other molecules, replicas or seeds")
        self.state = self.state.replace(
            batch=self.state.batch.replace(positions=saved["positions"]),
            **{key: saved[key] for key in ("velocities", "energy", "forces", "thermostat", "step")},
        )
        self.failed, self._has_begun = saved["failed"], saved["begun"]
        self.failures = [Failure(*failure) for failure in saved["failures"]]
        for observer, state in zip(self.observers, saved["observers"], strict=True):
            observer.load_state_dict(state)


def _not_finite(state: MDState) -> Bool[Tensor, " n_molecules"]:
    values = torch.cat([state.batch.positions, state.velocities, state.forces], dim=1)  # [N, 9]
    bad_atom = ~torch.isfinite(values).all(dim=1)
    bad = torch.zeros_like(state.energy).index_add(0, state.batch.molecule, bad_atom.double()) > 0
    return bad | ~torch.isfinite(state.energy)


def _hold(moved: MDState, before: MDState, failed: Bool[Tensor, " n_molecules"]) -> MDState:
    """Put failed molecules back to their last positions, at rest and without forces.

    A NaN left in the batch would reach other molecules through sums over the batch.
    """
    atoms = failed[moved.batch.molecule][:, None]
    positions = torch.where(atoms, before.batch.positions, moved.batch.positions)
    return moved.replace(
        batch=moved.batch.replace(positions=positions),
        velocities=torch.where(atoms, 0.0, moved.velocities),
        forces=torch.where(atoms, 0.0, moved.forces),
        thermostat=torch.where(failed[:, None], before.thermostat, moved.thermostat),
    )


class Speed(NamedTuple):
    """Wall time of a run."""

    steps: int
    seconds: float
    """Wall time with records and files, s."""
    in_potential: float
    """Time in calls of the potential, s."""

    @property
    def steps_per_second(self) -> float:
        """Steps per second; one step moves all replicas."""
        return self.steps / self.seconds

    @property
    def overhead(self) -> float:
        """Time per step outside the potential, s."""
        return (self.seconds - self.in_potential) / self.steps


class TimedPotential:
    """A potential that measures its wall time; on a GPU it synchronises, as dynamics do at every step."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.seconds = 0.0

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Evaluate the potential."""
        begin = time.perf_counter()
        energy, forces = self.potential(batch)
        if forces.is_cuda:
            torch.cuda.synchronize(forces.device)
        self.seconds += time.perf_counter() - begin
        return energy, forces


def measure_speed(
    potential: Potential,
    state: MDState,
    integrator: Integrator,
    *,
    n_steps: int,
    limit: float,
    record_every: int,
    observers: Sequence[Observer] = (),
    n_warm_up: int = 10,
) -> Speed | None:
    """Return the speed of dynamics; ``None`` if they failed before a step could be timed.

    Args:
        potential: energies and forces.
        state: initial state; not changed.
        integrator: equations of motion.
        n_steps: largest number of steps to time.
        limit: wall time after which the run stops, s.
        record_every: steps between records.
        observers: receivers of the records, timed too.
        n_warm_up: untimed steps before.
    """
    timed = TimedPotential(potential)
    dynamics = Dynamics(timed, state, integrator, record_every=record_every, observers=observers)
    dynamics.run(n_warm_up)
    before, timed.seconds, begin = dynamics.state.step, 0.0, time.perf_counter()
    dynamics.run(before + n_steps, stop=lambda: time.perf_counter() - begin > limit)
    for observer in observers:
        observer.flush()
    seconds = time.perf_counter() - begin
    n_timed = dynamics.state.step - before
    return Speed(n_timed, seconds, timed.seconds) if n_timed else None
