"""Replicas: each on its own stream, batched as alone, stopped one by one, resumed bit for bit."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

from basinet.data.readers import read_molecules
from basinet.md.bonds import STRETCHED, BondStretch, reference_bonds
from basinet.md.dynamics import NOT_FINITE, OUT_OF_RANGE, Dynamics, start
from basinet.md.frames import BadFrames, frame_writer
from basinet.md.integrators import (
    BLOCK,
    Integrator,
    LangevinBAOAB,
    RandomStreams,
    VelocityVerlet,
    kinetic_energy,
    replica_seeds,
)
from basinet.md.nose_hoover import NoseHoover
from basinet.md.observables import distance_histogram, histogram_error
from basinet.md.potentials import model_potential
from basinet.md.running import DistanceCounts, Table, rmsd, standard_quantities
from basinet.structures.batch import collate
from basinet.units import BOLTZMANN
from md_potentials import at, chain, free, morse, named
from molecules import ETHANOL, SMALL, random_orthogonal
from small_runs import tiny_model

INTEGRATORS = {
    "nve": VelocityVerlet(dt=0.5),
    "langevin": LangevinBAOAB(dt=0.5, temperature=300.0, friction=0.02),
    "nose-hoover": NoseHoover(dt=0.5, temperature=300.0),
}
MIXED = [named("CH4"), named("H2O"), named("CH3CH2OH"), named("He")]


def begin(potential, molecules, integrator: Integrator, seed: int = 0, **options) -> Dynamics:
    batch = collate(molecules, torch.float64)
    state = start(potential, batch, integrator, 300.0, replica_seeds(seed, batch.n_molecules))
    return Dynamics(potential, state, integrator, record_every=options.pop("record_every", 5), **options)


def test_a_number_depends_on_seed_step_and_atom_and_not_on_the_replicas_beside() -> None:
    batch = collate(MIXED, torch.float64)
    seeds = replica_seeds(7, 4)
    together = RandomStreams(batch, seeds)
    steps = [0, BLOCK - 1, BLOCK, 3, 10 * BLOCK + 5]
    drawn = {step: together.at(step) for step in steps}
    for i in range(4):
        alone = RandomStreams(batch.select([i]), [seeds[i]])
        for step in reversed(steps):
            assert torch.equal(alone.at(step), drawn[step][batch.molecule == i])
        assert torch.equal(alone.at_start(), together.at_start()[batch.molecule == i])
    assert replica_seeds(7, 9)[:4] == seeds
    assert len({*replica_seeds(0, 100), *replica_seeds(1, 100)}) == 200


def test_the_numbers_are_normal_and_independent() -> None:
    streams = RandomStreams(collate([named("CH4")] * 40, torch.float64), replica_seeds(0, 40))
    values = torch.stack([streams.at(step) for step in range(100)]).numpy()  # [100, 200, 3]
    assert kstest(values.ravel(), "norm").pvalue > 1e-3
    flat = values.reshape(100, -1)
    between = np.corrcoef(flat[:, ::7].T)
    assert np.abs(between - np.eye(len(between))).max() < 0.5
    assert abs(np.mean(flat[1:] * flat[:-1])) < 4 / np.sqrt(flat.size)


@pytest.mark.parametrize("kind", INTEGRATORS)
def test_a_network_moves_a_batch_as_its_replicas_one_by_one(kind: str) -> None:
    """To 1e-5 Å over 40 steps, random forces included."""
    potential = model_potential(tiny_model().double())
    molecules = [ETHANOL, *(m for m in SMALL if m.name == "H2O"), ETHANOL]
    together = begin(potential, molecules, INTEGRATORS[kind], record_every=40)
    together.run(40)
    batch, seeds = together.state.batch, replica_seeds(0, len(molecules))
    for i, molecule in enumerate(molecules):
        one = collate([molecule], torch.float64)
        alone = Dynamics(
            potential, start(potential, one, INTEGRATORS[kind], 300.0, [seeds[i]]), INTEGRATORS[kind], record_every=40
        )
        alone.run(40)
        assert torch.allclose(alone.state.batch.positions, batch.positions[batch.molecule == i], atol=1e-5, rtol=0)
    first, last = batch.positions[batch.molecule == 0], batch.positions[batch.molecule == len(molecules) - 1]
    assert (first - last).abs().max() > 0.01, "control: two replicas of one molecule go different ways"


@pytest.mark.parametrize("frames", ["extxyz", "traj", "hdf5"])
@pytest.mark.parametrize("kind", INTEGRATORS)
def test_a_run_that_stops_and_goes_on_leaves_the_files_of_one_that_did_not_stop(
    kind: str, frames: str, tmp_path: Path
) -> None:
    """17 + 26 steps equal 43, bit for bit, also when more was written after the last state was saved."""

    def made(name: str) -> Dynamics:
        (tmp_path / name).mkdir(exist_ok=True)
        batch = collate(MIXED, torch.float64)
        bonds = reference_bonds(MIXED)
        observers = [
            frame_writer(frames, tmp_path / name, batch),
            Table(tmp_path / name / "table.csv", standard_quantities(batch, bonds)),
            DistanceCounts(batch, half=10.0),
            BadFrames(tmp_path / name / "bad.extxyz", batch),
        ]
        stop = {STRETCHED: BondStretch(bonds, 0.3)}
        return begin(chain(0.5, 1.0), MIXED, INTEGRATORS[kind], observers=observers, stop_when=stop)

    whole = made("whole")
    whole.run(43)
    whole.save(tmp_path / "whole.pt")
    part = made("part")
    part.run(17)
    part.save(tmp_path / "part.pt")
    part.run(30)
    for observer in part.observers:
        observer.flush()  # killed here
    again = made("part")
    again.load(tmp_path / "part.pt")
    again.run(43)
    again.save(tmp_path / "part.pt")
    assert whole.failures, "control: something breaks"
    assert again.failures == whole.failures
    for name in ("positions", "velocities", "forces"):
        one, other = (
            (d.state.batch.positions if name == "positions" else getattr(d.state, name)) for d in (whole, again)
        )
        assert torch.equal(one, other)
    assert torch.equal(whole.state.thermostat, again.state.thermostat)
    assert torch.equal(whole.observers[2].counts, again.observers[2].counts)
    for path in (tmp_path / "whole").iterdir():
        if path.suffix in (".csv", ".extxyz"):
            assert path.read_bytes() == (tmp_path / "part" / path.name).read_bytes()
        else:
            one, other = (list(read_molecules(tmp_path / d / path.name)) for d in ("whole", "part"))
            assert len(one) == len(other)
            assert all(np.array_equal(a.positions, b.positions) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("frames", ["extxyz", "traj", "hdf5"])
def test_trajectories_are_read_by_us_and_by_ase_and_say_what_the_state_was(frames: str, tmp_path: Path) -> None:
    molecules = [named("H2O"), named("CO")]
    integrator = INTEGRATORS["langevin"]
    seen = []
    run = begin(morse(), molecules, integrator)
    run.observers = (frame_writer(frames, tmp_path, run.state.batch),)
    run.run(20, on_record=seen.append)
    run.observers[0].flush()
    name = {"extxyz": "replica-001.extxyz", "traj": "replica-001.traj", "hdf5": "trajectory.h5"}[frames]
    read = [m for m in read_molecules(tmp_path / name) if m.formula == "CO"]
    assert len(read) == len(seen) == 5
    last = seen[-1].state
    assert read[-1].positions == pytest.approx(last.batch.positions[3:].numpy(), abs=1e-7)
    assert read[-1].labels["forces"] == pytest.approx(last.forces[3:].numpy(), abs=1e-7)
    assert read[-1].labels["energy"] == pytest.approx(last.energy[1].item(), abs=1e-7)
    if frames != "hdf5":
        atoms = ase.io.read(tmp_path / name, index=-1)
        assert atoms.get_kinetic_energy() == pytest.approx(kinetic_energy(last)[1].item(), rel=1e-5)  # CODATA of ASE
        assert atoms.info["time_ps"] == pytest.approx(0.01) or frames == "traj"


def test_the_memory_of_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    run = begin(free, [named("He")], VelocityVerlet(), record_every=1, temperature_range=(0.0, 1e5))
    table = Table(tmp_path / "t.csv", {"x": lambda r: r.kinetic})
    frames = frame_writer("extxyz", tmp_path, run.state.batch)
    frames._at_once = 7
    run.observers = (table, frames)
    run.run(600)
    assert len(table._waiting) < 256
    assert len(frames._waiting) < 7
    run.save(tmp_path / "state.pt")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 602


def test_reasons_to_stop_are_told_apart_and_the_bad_frame_is_kept(tmp_path: Path) -> None:
    molecules = [named("CO")] * 5
    bonds = reference_bonds(molecules)

    def damaged(batch):
        energy, forces = morse()(batch)
        if calls[0] == 7:
            forces[0] = torch.nan  # replica 0
            forces[2:4] = torch.tensor([[1e6, 0, 0], [-1e6, 0, 0]])  # replica 1: too hot
        if calls[0] >= 4:
            forces[4:6] = torch.tensor([[300.0, 0, 0], [-300.0, 0, 0]])  # replica 2: torn apart
        calls[0] += 1
        return energy, forces

    calls = [0]
    bad = BadFrames(tmp_path / "bad.extxyz", collate(molecules))
    stop = {STRETCHED: BondStretch(bonds), "told to": lambda state: (torch.arange(5) == 3) & (state.step >= 10)}
    run = begin(damaged, molecules, VelocityVerlet(dt=0.5), observers=[bad], stop_when=stop, record_every=2)
    run.temperature_range = (0.1, 1e7)
    run.run(12)
    assert [(f.molecule, f.reason) for f in sorted(run.failures)] == [
        (0, NOT_FINITE),
        (1, OUT_OF_RANGE),
        (2, STRETCHED),
        (3, "told to"),
    ]
    assert run.failed.tolist()[3:] == [True, False]
    read = ase.io.read(tmp_path / "bad.extxyz", index=":")
    assert [a.info["replica"] for a in read] == [f.molecule for f in run.failures]
    assert all(np.isfinite(a.positions).all() for a in read)
    torn = next(a for a in read if a.info["reason"] == STRETCHED)
    assert abs(torn.get_distance(0, 1) - bonds.lengths[2].item()) > 0.5


def test_a_molecule_that_flies_far_is_neither_wrapped_nor_broken() -> None:
    run = begin(morse(), [named("CO")], VelocityVerlet(dt=0.5), stop_when={})
    run.state = run.state.replace(velocities=run.state.velocities + 1.0)
    run.temperature_range = (0.0, 1e9)
    bonds = reference_bonds([named("CO")])
    run.stop_when = {STRETCHED: BondStretch(bonds)}
    run.run(200)
    assert run.state.batch.positions.abs().max() > 90
    assert not run.failures


def test_the_drift_of_the_energy_with_its_bath_is_that_of_the_time_step_under_langevin() -> None:
    """The heat that went to and fro is thousands of times larger than what is lost or found."""
    row = at(*((1.4 * i, 0.1 * (i % 2), 0.05 * i) for i in range(6)))
    errors = []
    for dt in (1.0, 0.5):
        seen = []
        run = begin(chain(), [row] * 32, LangevinBAOAB(dt=dt, temperature=300.0, friction=0.02), record_every=1)
        run.run(round(500 / dt), on_record=seen.append)
        conserved = torch.stack([r.conserved for r in seen])
        errors.append(float((conserved - conserved[0]).std()))
        heat = torch.stack([r.state.thermostat[:, 0] for r in seen]).std()
        assert errors[-1] < 0.05 * heat
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.3)


def test_each_degree_of_freedom_has_the_same_energy_in_an_anharmonic_chain() -> None:
    """Langevin, 400 K: the velocity of every atom along every axis is normal; chi-squared of its mean square."""
    row = at(*((1.4 * i, 0.1 * (i % 2), 0.05 * i) for i in range(4)))
    n = 300
    run = begin(chain(), [row] * n, LangevinBAOAB(dt=1.0, temperature=400.0, friction=0.05), record_every=1000)
    run.run(1500)
    scaled = run.state.masses[:, None] * run.state.velocities.square() / (BOLTZMANN * 400.0) / 9.648533212331e-3
    sums = scaled.view(n, 4 * 3).sum(dim=0).numpy()  # each follows chi-squared with n degrees of freedom
    assert ((chi2(n).cdf(sums) > 1e-4) & (chi2(n).cdf(sums) < 1 - 1e-4)).all()
    assert kstest((2 * kinetic_energy(run.state) / (BOLTZMANN * 400.0)).numpy(), chi2(12).cdf).pvalue > 1e-3


def test_running_h_of_r_is_that_of_all_frames_of_each_molecule() -> None:
    run = begin(chain(), [*MIXED, named("CH4")], INTEGRATORS["langevin"])
    counts = DistanceCounts(run.state.batch)
    run.observers = (counts,)
    seen = []
    run.run(40, on_record=seen.append)
    batch, h = run.state.batch, counts.histograms()
    for i in range(5):
        frames = torch.stack([r.state.batch.positions[batch.molecule == i] for r in seen])
        assert histogram_error(h[i], distance_histogram(frames)) < 1e-12
    assert h[3].abs().max() == 0, "helium has no distances"


def test_the_rmsd_is_blind_to_shift_and_turn_and_sees_a_reflection() -> None:
    batch = collate([ETHANOL, named("CH4"), named("He")], torch.float64)
    turn = random_orthogonal(1, reflect=False)
    assert rmsd(batch.positions @ turn.T + 5.0, batch).max() < 1e-6
    chiral = collate([at((0, 0, 0), (1, 0, 0), (0, 1.3, 0), (0, 0, 1.7))], torch.float64)
    assert rmsd(-chiral.positions, chiral).item() > 0.3


def test_two_hundred_steps_of_ethanol_end_where_they_did_before() -> None:
    """The smoke test of the benchmark: an analytic potential, Nosé-Hoover, a fixed seed."""
    run = begin(chain(), [named("CH3CH2OH")], NoseHoover(dt=0.5, temperature=500.0), seed=123)
    run.run(200)
    assert run.n_force_calls == 201
    assert run.state.energy.item() == pytest.approx(SMOKE_ENERGY, abs=1e-6)
    assert run.state.batch.positions.square().sum().item() == pytest.approx(SMOKE_SQUARES, abs=1e-6)


SMOKE_ENERGY, SMOKE_SQUARES = 0.8700614426, 8.6566925532
"""eV, Å²."""


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    run = begin(free, [named("CO")], VelocityVerlet())
    run.save(tmp_path / "state.pt")
    with pytest.raises(ValueError, match="other molecules, replicas or seeds"):
        begin(free, [named("CO")], VelocityVerlet(), seed=1).load(tmp_path / "state.pt")
    (tmp_path / "state.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read as a saved state"):
        begin(free, [named("CO")], VelocityVerlet()).load(tmp_path / "state.pt")
