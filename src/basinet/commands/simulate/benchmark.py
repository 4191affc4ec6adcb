"""The MD17 benchmark of "Forces are not Enough": does a force field with small errors also simulate?

Fu et al., TMLR 2023. Its directory holds the files of a simulation
(:mod:`basinet.commands.simulate.simulate`), what was measured before the dynamics
(``measured.json``), and ``result.json``, ``result.md`` and ``report.html``.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from basinet.commands.answer.load import load_energy_model, require_device
from basinet.commands.recipe import save_recipe
from basinet.commands.simulate.settings import (
    ALL,
    DT,
    RECORD_EVERY,
    SPLIT,
    TEMPERATURE,
    TEST_FRAMES,
    TOLERANCE,
    MDBenchmarkConfig,
)
from basinet.commands.simulate.simulate import (
    BAD_FILE,
    RECORDS_FILE,
    SETTINGS_FILE,
    START_FILE,
    STATE_FILE,
    Simulation,
    advance,
    check_directory,
)
from basinet.commands.simulate.start import load_start, save_start
from basinet.commands.train.data import given_split
from basinet.data.chemistry.perception import perceive_bonds
from basinet.data.generation.calculators import make_calculator
from basinet.data.reading import load_store
from basinet.data.store.store import MoleculeStore
from basinet.evaluation.metrics import ForceEnergyErrors
from basinet.files import write_text
from basinet.md.bonds import STRETCHED
from basinet.md.dynamics import Dynamics, Record, Speed, measure_speed, start
from basinet.md.frames import BadFrames, frame_writer
from basinet.md.integrators import Potential, replica_seeds
from basinet.md.nose_hoover import NoseHoover
from basinet.md.observables import histogram_error
from basinet.md.potentials import calculator_potential, model_potential
from basinet.md.running import (
    DistanceCounts,
    FirstBroken,
    IntactDistanceCounts,
    ReferenceGeometry,
    Table,
    standard_quantities,
)
from basinet.models.file import read_backbone
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate

SPEED_STEPS, SPEED_SECONDS = 2000, 20.0
"""Of one replica alone, at most."""
MEASURED_FILE = "measured.json"
CHUNK = 256
"""Frames at once."""

Say = Callable[[str], None]
Show = Callable[[int, int], None]


class Measured(NamedTuple):
    """What is measured before the dynamics."""

    force_mae: float
    """eV/Å, over frames, atoms and components."""
    n_test: int
    """Frames of it."""
    speed: Speed | None
    """Of one replica alone; ``None``: its dynamics failed at once."""


class Prepared(NamedTuple):
    """A benchmark before its dynamics."""

    config: MDBenchmarkConfig
    potential: Potential
    molecules: list[Molecule]
    """Starts of the runs."""
    starts: Int64[np.ndarray, " n_replicas"]
    """Frames of the data."""
    reference: ReferenceGeometry
    noise: float
    """Error of h(r) of as many frames of the reference, drawn at random, as a run has: what sampling alone gives."""
    measured: Measured


class MDBenchmark(NamedTuple):
    """A benchmark that ran."""

    before: Prepared
    simulation: Simulation
    broken: FirstBroken
    """By the bonds of the first frame, and by those of the topology."""


def prepare_md_benchmark(
    config: MDBenchmarkConfig,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    on_frames: Show = lambda done, total: None,
    say: Say = print,
) -> Prepared:
    """Read the reference, and measure force error and speed; what is in the directory is not measured again.

    Args:
        config: what to do.
        out: directory to make or to go on in.
        device: cpu or cuda.
        resume: whether to go on; it may be made longer then.
        on_frames: called while force errors are computed.
        say: told what is found.

    Raises:
        ValueError: the data is no trajectory of one molecule with forces, or the directory holds something else.
    """
    check_directory(config, out, resume)
    require_device(device)
    store, tests = _read(config, say)
    reference = ReferenceGeometry.of(_frames(store, np.arange(len(store))))
    generator = np.random.default_rng(config.seed)
    starts = generator.choice(tests, config.replicas, replace=config.replicas > len(tests))
    n_frames = config.n_steps // RECORD_EVERY + 1
    drawn = generator.choice(len(store), n_frames, replace=n_frames > len(store))
    noise = histogram_error(ReferenceGeometry.of(_frames(store, drawn)).histogram, reference.histogram)
    potential = _potential(config, store[int(starts[0])], device)
    if resume:
        molecules = load_start(out / START_FILE)
    else:
        molecules = [store[int(i)] for i in starts]
        out.mkdir(parents=True, exist_ok=True)
        save_start(out / START_FILE, molecules)
    save_recipe(config, out / SETTINGS_FILE)
    if (out / MEASURED_FILE).exists():
        measured = _load_measured(out / MEASURED_FILE)
    else:
        chosen = tests[: config.test_frames]
        error = _force_mae(potential, store, chosen, device, on_frames)
        say(f"force MAE {1000 * error:.4g} meV/Å over {len(chosen):,} frames")
        measured = Measured(error, len(chosen), _speed(config, potential, molecules[0], device))
        write_text(out / MEASURED_FILE, json.dumps(measured._asdict()) + "\n")
    return Prepared(config, potential, molecules, starts, reference, noise, measured)


def run_md_benchmark(
    before: Prepared,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    on_record: Callable[[Record, float], None] | None = None,
    say: Say = print,
) -> MDBenchmark:
    """Run the dynamics, or go on with them.

    Args:
        before: what was prepared in the same directory, on the same device.
        out: the directory.
        device: cpu or cuda.
        resume: go on from the last saved state.
        on_record: called at each record, with the wall time of this process in seconds.
        say: told where it goes on.

    Raises:
        InterruptedRunError: asked to stop by a signal; the state is saved.
    """
    config = before.config
    dynamics, distances, broken = _dynamics(before, out, device)
    if resume and (out / STATE_FILE).exists():
        dynamics.load(out / STATE_FILE)
        say(f"going on at {dynamics.time / 1000:.4g} ps")
    begin, first = time.monotonic(), dynamics.state.step
    advance(dynamics, config.n_steps, out, lambda r: on_record and on_record(r, time.monotonic() - begin))
    took, made = time.monotonic() - begin, dynamics.state.step - first
    simulation = Simulation(config.as_simulation(), dynamics, distances, before.molecules, took, made)
    return MDBenchmark(before, simulation, broken)


def _read(config: MDBenchmarkConfig, say: Say) -> tuple[MoleculeStore, Int64[np.ndarray, " n"]]:
    """Read the data, and say which frames are test frames."""
    store, report = load_store(config.data, config.units.reading())
    say(str(report))
    if store[0].n_atoms < 2:
        raise ValueError(f"{config.data}: a single atom has neither bonds nor distances to examine")
    if store.label_counts.get("forces", 0) != len(store):
        raise ValueError(f"{config.data}: {store.label_counts.get('forces', 0)} of {len(store)} frames have forces")
    if config.model is not None and read_backbone(config.model).needs_bonds:
        store, bonds = perceive_bonds(store)
        say(str(bonds))
    tests = np.arange(len(store))
    if config.split != ALL:
        if config.split == SPLIT and len(store) < 2 * TEST_FRAMES:
            raise ValueError(
                f"{config.data} has {len(store):,} frames, too few for the split {SPLIT} of the benchmark; give the "
                "split of your own training (--split RUN/split.json), or --split all, if the model has seen none of it"
            )
        tests = given_split(Path(config.split), store, config.data).test
    if len(tests) == 0:
        raise ValueError(f"split {config.split} has no test frames to start from; choose another (--split)")
    return store, tests


def _frames(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> Iterator[Tensor]:
    """Yield the positions of frames, which are to be of the same atoms in the same order."""
    numbers = torch.from_numpy(store[0].atomic_numbers)
    for first in range(0, len(rows), CHUNK):
        batch = store.gather(rows[first : first + CHUNK])
        if not torch.equal(batch.atomic_numbers, numbers.repeat(batch.n_molecules)):
            raise ValueError(
                "the reference is to be a trajectory of one molecule, the same atoms in the same order; frames "
                f"{first} to {first + batch.n_molecules - 1} hold others"
            )
        yield batch.positions.reshape(batch.n_molecules, len(numbers), 3)


def _potential(config: MDBenchmarkConfig, molecule: Molecule, device: str) -> Potential:
    if config.model is None:
        make_calculator(config.calculator, molecule.charge)  # what cannot be made is told before anything is written
        return calculator_potential(lambda: make_calculator(config.calculator, molecule.charge))
    model = load_energy_model(config.model, device)
    if reasons := model.scope.outside(molecule.atomic_numbers, molecule.charge):
        raise ValueError(f"{config.model} was not trained for {molecule.formula}: {'; '.join(reasons)}")
    return model_potential(model)


def _load_measured(path: Path) -> Measured:
    saved = json.loads(path.read_text(encoding="utf-8"))
    return Measured(saved["force_mae"], saved["n_test"], None if saved["speed"] is None else Speed(*saved["speed"]))


def _force_mae(
    potential: Potential, store: MoleculeStore, rows: Int64[np.ndarray, " n"], device: str, on_frames: Show
) -> float:
    errors = ForceEnergyErrors(max_parity=0)
    for first in range(0, len(rows), CHUNK):
        batch = store.gather(rows[first : first + CHUNK]).to(device)
        errors.update({"forces": potential(batch)[1]}, batch)
        on_frames(min(first + CHUNK, len(rows)), len(rows))
    found = errors.compute().force_mae
    assert found is not None
    return found


def _speed(config: MDBenchmarkConfig, potential: Potential, molecule: Molecule, device: str) -> Speed | None:
    batch = collate([molecule], torch.float64).to(device)
    integrator = NoseHoover(dt=DT, temperature=TEMPERATURE)
    state = start(potential, batch, integrator, TEMPERATURE, replica_seeds(config.seed, 1))
    with tempfile.TemporaryDirectory() as directory:
        return measure_speed(
            potential,
            state,
            integrator,
            n_steps=SPEED_STEPS,
            limit=SPEED_SECONDS,
            record_every=RECORD_EVERY,
            observers=[frame_writer(config.frames, Path(directory), batch)],
        )


def _dynamics(before: Prepared, out: Path, device: str) -> tuple[Dynamics, DistanceCounts, FirstBroken]:
    config, molecules, reference = before.config, before.molecules, before.reference
    batch: Batch = collate(molecules, torch.float64).to(device)
    bonds = reference.bonds_of_start(molecules).to(device)
    broken = FirstBroken([bonds, reference.bonds_of_topology(molecules).to(device)], TOLERANCE, batch)
    distances = DistanceCounts(batch, half=config.picoseconds * 500)
    integrator = NoseHoover(dt=DT, temperature=TEMPERATURE)
    dynamics = Dynamics(
        before.potential,
        start(before.potential, batch, integrator, TEMPERATURE, replica_seeds(config.seed, len(molecules))),
        integrator,
        record_every=RECORD_EVERY,
        stop_when={STRETCHED: broken.all_broken},
        observers=[
            broken,
            IntactDistanceCounts(distances, broken),
            Table(out / RECORDS_FILE, standard_quantities(batch, bonds)),
            frame_writer(config.frames, out, batch),
            BadFrames(out / BAD_FILE, batch),
        ],
    )
    return dynamics, distances, broken
