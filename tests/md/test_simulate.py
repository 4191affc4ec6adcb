import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from basinet.md.integrators import LangevinBAOAB, Potential, VelocityVerlet
from basinet.md.simulate import Trajectory, simulate
from basinet.structures.batch import Batch, collate
from md_potentials import free, morse, named

PAIR = collate([named("CO"), named("H2O")], torch.float64)


def run(
    potential: Potential,
    batch: Batch = PAIR,
    *,
    n_steps: int = 20,
    record_every: int = 2,
    temperature_range: tuple[float, float] = (0.1, 1e5),
    on_progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    return simulate(
        potential,
        batch,
        VelocityVerlet(dt=0.5),
        n_steps=n_steps,
        record_every=record_every,
        temperature=300.0,
        seed=3,
        temperature_range=temperature_range,
        on_progress=on_progress,
    )


class Counting:
    """A Morse potential that counts its calls and damages what one molecule gets from the n-th call on."""

    def __init__(self, damage: Callable[[Tensor, Tensor], None] | None = None, from_call: int = 0) -> None:
        self.damage, self.from_call, self.calls = damage, from_call, 0

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert torch.isfinite(batch.positions).all(), "a failed molecule must not be handed on"
        energy, forces = morse()(batch)
        if self.damage is not None and self.calls >= self.from_call:
            self.damage(energy, forces)
        self.calls += 1
        return energy, forces


def test_the_potential_is_called_once_per_step_and_once_before() -> None:
    potential = Counting()
    trajectory = run(potential, n_steps=17)
    assert potential.calls == trajectory.n_force_calls == 18


def test_records_hold_the_first_state_and_every_second_one_after() -> None:
    seen: list[tuple[int, int]] = []
    trajectory = run(morse(), n_steps=5, on_progress=lambda done, total: seen.append((done, total)))
    assert trajectory.times.tolist() == [0.0, 1.0, 2.0]
    assert trajectory.positions.shape == (3, 5, 3)
    assert torch.equal(trajectory.positions[0], PAIR.positions)
    assert seen == [(0, 5), (2, 5), (4, 5)]
    assert trajectory.duration == 2.5
    assert trajectory.failure_time.tolist() == [math.inf, math.inf]


def test_the_recorded_total_energy_is_conserved() -> None:
    trajectory = run(morse(), collate([named("CO")], torch.float64), n_steps=200)
    spread = trajectory.total_energy - trajectory.total_energy[0]
    traded = trajectory.kinetic_energy.amax() - trajectory.kinetic_energy.amin()
    assert spread.abs().max() < 0.02 * traded


def set_forces_nan(_: Tensor, forces: Tensor) -> None:
    forces[3, 1] = math.nan


def set_energy_infinite(energy: Tensor, _: Tensor) -> None:
    energy[1] = math.inf


def set_forces_huge(_: Tensor, forces: Tensor) -> None:
    forces[2:] = 1e4


@pytest.mark.parametrize("damage", [set_forces_nan, set_energy_infinite, set_forces_huge])
def test_a_molecule_that_goes_wrong_fails_alone_and_leaves_no_trace_in_the_other(
    damage: Callable[[Tensor, Tensor], None],
) -> None:
    healthy = run(morse())
    trajectory = run(Counting(damage, from_call=7))  # call 7 is step 7, at 3.5 fs
    assert trajectory.failure_time.tolist() == [math.inf, 3.5]
    assert torch.equal(trajectory.positions[:, :2], healthy.positions[:, :2])
    assert torch.equal(trajectory.total_energy[:, 0], healthy.total_energy[:, 0])
    assert torch.equal(trajectory.positions[:4, 2:], healthy.positions[:4, 2:])
    assert trajectory.positions[4:, 2:].isnan().all()
    assert trajectory.temperature[4:, 1].isnan().all()


def test_a_molecule_without_finite_forces_at_the_start_fails_at_time_zero() -> None:
    assert run(Counting(set_forces_nan)).failure_time.tolist() == [math.inf, 0.0]


def test_the_run_stops_when_every_molecule_has_failed() -> None:
    potential = Counting(lambda _, forces: forces.fill_(math.nan), from_call=5)
    trajectory = run(potential, n_steps=1000)
    assert potential.calls == trajectory.n_force_calls == 6
    assert trajectory.failure_time.tolist() == [2.5, 2.5]
    assert trajectory.duration == 500.0


def test_a_temperature_out_of_range_is_a_failure() -> None:
    warm = run(free, temperature_range=(250.0, 350.0))
    start = warm.temperature[0]
    assert ((start < 250) | (start > 350) | start.isnan()).tolist() == (warm.failure_time == 0).tolist()
    with pytest.raises(ValueError, match=r"pass temperature_range=\(0.0"):
        run(free, temperature_range=(400.0, 1e5))


def test_a_single_atom_under_verlet_has_no_temperature_and_does_not_fail() -> None:
    trajectory = run(free, collate([named("He")], torch.float64))
    assert trajectory.temperature.isnan().all()
    assert trajectory.failure_time.tolist() == [math.inf]


def test_replicas_of_one_molecule_under_langevin_reach_the_temperature_of_the_bath() -> None:
    """64 ethane replicas from 100 K to 400 K: mean temperature within four standard errors of a single record."""
    trajectory = simulate(
        morse(depth=1.0, width=1.0),
        collate([named("C2H6")] * 64, torch.float64),
        LangevinBAOAB(dt=0.5, temperature=400.0, friction=0.1),
        n_steps=200,
        record_every=100,
        temperature=100.0,
        seed=1,
    )
    standard_error = 400.0 * math.sqrt(2 / (64 * 24))
    assert trajectory.temperature[-1].mean().item() == pytest.approx(400.0, abs=4 * standard_error)


def test_numbers_of_steps_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        run(free, n_steps=0)
