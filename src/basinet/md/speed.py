"""How fast dynamics are, and how much of the time is spent in the potential."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from basinet.md.dynamics import Dynamics, Observer
from basinet.md.integrators import Integrator, MDState, Potential
from basinet.structures.batch import Batch


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
