"""The loop of molecular dynamics: steps, failures, records, and a state from which it goes on bit for bit.

Replicas are the molecules of one batch. One that fails is held where it was while the others go on. What is kept of a
run is the business of observers (:class:`Observer`): frames on disk, tables, histograms; none of them grows with the
length of a run.
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
"""K. Outside it a run counts as failed: the limits of Fu et al., "Forces are not Enough" (TMLR 2023), MDsim code."""
NOT_FINITE = "a value is not finite"
OUT_OF_RANGE = "the temperature left its range"

StopWhen = Callable[[MDState], Bool[Tensor, " n_molecules"]]
"""Tells which molecules must not go on; asked at every record. See :class:`basinet.md.bonds.BondStretch` for one, and
use any other: the spread of an ensemble, a geometry outside what a model knows."""


class Failure(NamedTuple):
    """Why and when a molecule stopped."""

    molecule: int
    step: int
    time: float
    """fs."""
    reason: str


class Record(NamedTuple):
    """The state at one time, with what observers ask of it."""

    step: int
    time: float
    """fs."""
    state: MDState
    kinetic: Float64[Tensor, " n_molecules"]
    """eV."""
    temperature: Float64[Tensor, " n_molecules"]
    """K."""
    conserved: Float64[Tensor, " n_molecules"]
    """Potential and kinetic energy, and what went to the bath, eV."""
    alive: Bool[Tensor, " n_molecules"]
    """Molecules that have not failed; those that ``stop_when`` stops here are alive in this record, their last."""


class Observer(ABC):
    """Looks at records, and keeps what it wants of them."""

    @abstractmethod
    def observe(self, record: Record) -> None:
        """Take notice of a record."""

    def failed(self, failures: Sequence[Failure], bad: MDState, before: MDState) -> None:
        """Take notice of molecules that failed, of the state in which they did, and of that a step before."""
        del failures, bad, before

    def flush(self) -> None:  # noqa: B027 (an observer may have nothing to write)
        """Bring to the disk what belongs there."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors to go on from; called after :meth:`flush`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; what was written after it is dropped."""
        del state


def start(
    potential: Potential, batch: Batch, integrator: Integrator, temperature: Temperature, seeds: Sequence[int]
) -> MDState:
    """Return the state that an integrator starts from: see :func:`~basinet.md.integrators.init`."""
    return init(potential, batch, temperature, seeds, zero_momentum=integrator.conserves_momentum)


class Dynamics:
    """Replicas on their way.

    A molecule fails at the first step where its energy, a force, a position or a velocity is not finite, or where its
    temperature leaves ``temperature_range``; and at the first record where ``stop_when`` says so.

    Args:
        potential: energies and forces of a batch.
        state: the start, from :func:`start`.
        integrator: the equations of motion and the time step.
        record_every: steps between records; step 0 is recorded too.
        temperature_range: lowest and highest instantaneous temperature allowed, K.
        stop_when: further reasons to stop a molecule, by what to call them.
        observers: what looks at the records.
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
        """Calls of the potential by this object, that for the start counted too."""
        self._has_begun = False

    @property
    def time(self) -> float:
        """How far the replicas have come, fs."""
        return self.state.step * self.integrator.dt

    @property
    def all_failed(self) -> bool:
        """Whether there is nothing left to simulate."""
        return len(self.failures) == self.state.batch.n_molecules

    def run(
        self,
        until: int,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        """Go on until ``until`` steps are done in all, ``stop`` says so, or every molecule has failed.

        Args:
            until: number of steps from the very start.
            stop: asked after every step.
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
        """Hold what failed, and record the rest."""
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
        """Note the molecules that fail for the first time, under the first of their reasons."""
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
        """Write all that is needed to go on exactly here; the file written before stays until the new one is whole."""
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
        """Go on from a saved state.

        Raises:
            ValueError: it is not one, or is of other molecules, seeds or observers.
        """
        saved = read_torch(path, self.state.batch.positions.device)
        same = torch.equal(saved["atomic_numbers"], self.state.batch.atomic_numbers)
        if not same or [int(seed) for seed in saved["seeds"]] != list(self.state.streams.seeds):
            raise ValueError(f"{path} is of other molecules, replicas or seeds than this run")
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
    """Put failed molecules back to where they were, at rest and without forces, so that they cannot harm the others."""
    atoms = failed[moved.batch.molecule][:, None]
    positions = torch.where(atoms, before.batch.positions, moved.batch.positions)
    return moved.replace(
        batch=moved.batch.replace(positions=positions),
        velocities=torch.where(atoms, 0.0, moved.velocities),
        forces=torch.where(atoms, 0.0, moved.forces),
        thermostat=torch.where(failed[:, None], before.thermostat, moved.thermostat),
    )


class Speed(NamedTuple):
    """The time of a loop of dynamics."""

    steps: int
    seconds: float
    """Wall time of the whole loop, with its records and files."""
    in_potential: float
    """Seconds of it in calls of the potential."""

    @property
    def steps_per_second(self) -> float:
        """Of all replicas together, as one step moves all of them."""
        return self.steps / self.seconds

    @property
    def overhead(self) -> float:
        """Seconds a step outside of the potential."""
        return (self.seconds - self.in_potential) / self.steps


class TimedPotential:
    """A potential that knows how long it took; on a GPU it waits for its results, as dynamics do at every step."""

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
    """Run dynamics that nobody looks at, and return their speed; ``None`` if they failed before a step could be timed.

    Args:
        potential: energies and forces.
        state: where to start; it is left as it is.
        integrator: equations of motion.
        n_steps: to time, at most.
        limit: seconds after which no further step is made.
        record_every: steps between records.
        observers: what writes while it runs, as in what the speed is measured for.
        n_warm_up: steps before.
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
