"""What dynamics are compared with, when they count as broken, and how fast they are."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.md.bonds import bonds_by_distance
from basinet.md.dynamics import MDState, Record, measure_speed, start
from basinet.md.integrators import replica_seeds
from basinet.md.nose_hoover import NoseHoover
from basinet.md.observables import HISTOGRAM_BINS, distance_histogram, histogram_error
from basinet.md.running import DistanceCounts, FirstBroken, IntactDistanceCounts, ReferenceGeometry
from basinet.structures.batch import Batch, collate
from basinet.structures.molecule import Molecule
from basinet.units import KCAL_PER_MOL
from md_potentials import at, free, named

ETHANOL = named("CH3CH2OH")
INTEGRATOR = NoseHoover(dt=0.5, temperature=500.0)


def shaken(molecule: Molecule, n: int, size: float = 0.02) -> Tensor:
    noise = np.random.default_rng(0).normal(0, size, (n, molecule.n_atoms, 3))
    return torch.from_numpy(molecule.positions + noise)


def moved(molecule: Molecule, atom: int, by: tuple[float, float, float]) -> Molecule:
    positions = molecule.positions.copy()
    positions[atom] += by
    return Molecule(atomic_numbers=molecule.atomic_numbers, positions=positions)


def begin(molecules: list[Molecule], potential=free) -> MDState:
    batch = collate(molecules, torch.float64)
    return start(potential, batch, INTEGRATOR, 500.0, replica_seeds(0, len(molecules)))


def test_the_reference_is_that_of_a_double_loop_however_it_is_cut() -> None:
    frames = shaken(ETHANOL, 10)
    whole = ReferenceGeometry.of([frames])
    cut = ReferenceGeometry.of(frames.split(3))
    means = np.zeros((9, 9))
    for i, j in itertools.product(range(9), range(9)):
        means[i, j] = np.mean([np.linalg.norm(f[i] - f[j]) for f in frames.numpy()])
    for found in (whole, cut):
        assert found.n_frames == 10
        assert found.mean_distances.numpy() == pytest.approx(means, abs=1e-12)
        assert found.histogram.tolist() == pytest.approx(distance_histogram(frames).tolist(), abs=1e-12)
    assert histogram_error(whole.histogram, cut.histogram) < 1e-12
    with pytest.raises(ValueError, match="no reference frames"):
        ReferenceGeometry.of([])


def test_bonds_have_the_mean_lengths_of_the_reference() -> None:
    reference = ReferenceGeometry.of([shaken(ETHANOL, 200)])
    first = shaken(ETHANOL, 1)[0].numpy()
    molecule = Molecule(atomic_numbers=ETHANOL.atomic_numbers, positions=first)
    for bonds in (reference.bonds_of_start([molecule, ETHANOL]), reference.bonds_of_topology([molecule, ETHANOL])):
        assert len(bonds.pairs) == 16 and bonds.molecule.tolist() == [0] * 8 + [1] * 8
        assert torch.equal(bonds.lengths[:8], bonds.lengths[8:])
        assert torch.equal(bonds.pairs[8:], bonds.pairs[:8] + 9)
        for (i, j), length in zip(bonds.pairs[:8].tolist(), bonds.lengths.tolist(), strict=False):
            assert length == pytest.approx(np.linalg.norm(ETHANOL.positions[i] - ETHANOL.positions[j]), abs=0.01)


def test_the_first_frame_may_have_a_bond_too_few_or_too_many_and_the_topology_has_not() -> None:
    reference = ReferenceGeometry.of([shaken(ETHANOL, 200)])
    bonded = {tuple(pair) for pair in bonds_by_distance(ETHANOL).tolist()}
    i, j = next(p for p in bonded if set(ETHANOL.atomic_numbers[list(p)]) == {6, 1})
    hydrogen, carbon = (i, j) if ETHANOL.atomic_numbers[i] == 1 else (j, i)
    out = ETHANOL.positions[hydrogen] - ETHANOL.positions[carbon]
    stretched = moved(ETHANOL, hydrogen, tuple((0.7 * out / np.linalg.norm(out)).tolist()))
    assert len(reference.bonds_of_start([stretched]).pairs) == 7
    assert len(reference.bonds_of_topology([stretched]).pairs) == 8
    others = [k for k in range(9) if ETHANOL.atomic_numbers[k] == 1 and k != hydrogen]
    near = others[0]
    toward = ETHANOL.positions[near] - ETHANOL.positions[hydrogen]
    close = moved(ETHANOL, hydrogen, tuple((toward * (1 - 1.1 / np.linalg.norm(toward))).tolist()))
    assert (min(near, hydrogen), max(near, hydrogen)) in {
        tuple(p) for p in reference.bonds_of_start([close]).pairs.tolist()
    }
    assert len(reference.bonds_of_topology([close]).pairs) == 8


def records(molecule: Molecule, stretches: list[float]) -> list[Record]:
    """Return records every 50 fs with the last atom pulled away."""
    state = begin([molecule])
    found: list[Record] = []
    for k, stretch in enumerate(stretches):
        positions = state.batch.positions.clone()
        positions[-1, 0] += stretch
        one = state.replace(batch=state.batch.replace(positions=positions))
        nothing = torch.zeros(1, dtype=torch.float64)
        found.append(Record(100 * k, 50.0 * k, one, nothing, nothing, nothing, torch.tensor([True])))
    return found


@pytest.mark.parametrize(("stretch", "at_record"), [(0.49, 3), (0.51, 3), (0.51, 0), (-0.51, 5)])
def test_distances_are_counted_up_to_and_with_the_first_broken_frame(stretch: float, at_record: int) -> None:
    chain = at((0, 0, 0), (1.4, 0, 0), (2.8, 0, 0))
    reference = ReferenceGeometry.of([torch.from_numpy(chain.positions)[None]])
    batch = collate([chain], torch.float64)
    broken = FirstBroken([reference.bonds_of_start([chain])], 0.5, batch)
    counts = DistanceCounts(batch)
    watch = IntactDistanceCounts(counts, broken)
    for record in records(chain, [stretch if k == at_record else 0.0 for k in range(8)]):
        broken.observe(record)
        watch.observe(record)
    is_broken = abs(stretch) > 0.5
    assert broken.times[0].tolist() == [50.0 * at_record if is_broken else math.inf]
    assert counts.counts.sum() == 3 * (at_record + 1 if is_broken else 8)
    again = IntactDistanceCounts(DistanceCounts(batch), broken)
    again.load_state_dict(watch.state_dict())
    assert torch.equal(again.counts.counts, counts.counts)
    assert counts.counts.shape[-1] == HISTOGRAM_BINS


def test_a_force_field_of_ten_milliseconds_makes_at_most_a_hundred_steps_a_second() -> None:
    calls = [0]

    def slow(batch: Batch) -> tuple[Tensor, Tensor]:
        calls[0] += 1
        time.sleep(0.01)
        return free(batch)

    state = begin([ETHANOL], slow)
    found = measure_speed(slow, state, INTEGRATOR, n_steps=30, limit=60.0, record_every=10, n_warm_up=5)
    assert found is not None
    assert found.steps == 30 and calls[0] == 1 + 5 + 30
    assert found.steps_per_second == pytest.approx(30 / found.seconds) and found.steps_per_second <= 100
    assert found.in_potential >= 0.3 and found.overhead > 0
    assert 1 / found.steps_per_second - found.overhead == pytest.approx(found.in_potential / 30)
    assert state.step == 0


def test_the_clock_ends_the_timing_and_dynamics_that_fail_have_no_speed() -> None:
    state = begin([ETHANOL])
    short = measure_speed(free, state, INTEGRATOR, n_steps=10**6, limit=0.05, record_every=10)
    assert short is not None and 0 < short.steps < 10**6

    def bad(batch: Batch) -> tuple[Tensor, Tensor]:
        energy, forces = free(batch)
        return energy, forces * torch.nan

    assert measure_speed(bad, state, INTEGRATOR, n_steps=10, limit=1.0, record_every=10) is None


def test_kilocalories_are_those_of_the_benchmark() -> None:
    assert pytest.approx(1, rel=1e-6) == KCAL_PER_MOL * 23.06052
