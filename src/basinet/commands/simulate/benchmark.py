"""Run the MD17 benchmark of "Forces are not Enough" (Fu et al., TMLR 2023): is a force field with small errors stable?

The directory holds the files of a simulation (:mod:`basinet.commands.simulate.simulate`), the measurements before the
dynamics (``measured.json``), and ``result.json``, ``result.md`` and ``report.html``.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from basinet.commands.answer.load import load_energy_model
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
    START_FILE,
    OnRecord,
    Simulation,
    check_directory,
    run,
    save_settings,
)
from basinet.commands.simulate.start import Say, load_start
from basinet.commands.train.data import given_split
from basinet.data.chemistry.perception import perceive_bonds
from basinet.data.generation.calculators import make_calculator
from basinet.data.readers import load_store
from basinet.data.store.store import MoleculeStore
from basinet.devices import resolve_device
from basinet.evaluation.metrics import ForceEnergyErrors
from basinet.files import write_text
from basinet.md.bonds import STRETCHED
from basinet.md.dynamics import Dynamics, Speed, measure_speed, start
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
from basinet.models.checkpoint import read_backbone
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate

SPEED_STEPS, SPEED_SECONDS = 2000, 20.0
"""Largest number of steps and wall time (s) to measure the speed of one replica."""
MEASURED_FILE = "measured.json"
CHUNK = 256
"""Frames read at once."""

Show = Callable[[int, int], None]


class Measured(NamedTuple):
    """Measurements before the dynamics."""

    force_mae: float
    """Mean over frames, atoms and components, eV/Å."""
    n_test: int
    """Frames of the force error."""
    speed: Speed | None
    """Speed of one replica; ``None``: its dynamics failed at once."""


class Prepared(NamedTuple):
    """A benchmark before its dynamics."""

    config: MDBenchmarkConfig
    potential: Potential
    molecules: list[Molecule]
    """Initial molecules of the runs."""
    starts: Int64[np.ndarray, " n_replicas"]
    """Frames of the data that the runs start from."""
    reference: ReferenceGeometry
    noise: float
    """Error of h(r) from sampling alone: that of as many random reference frames as a run has."""
    measured: Measured


class MDBenchmark(NamedTuple):
    """A finished benchmark."""

    before: Prepared
    simulation: Simulation
    broken: FirstBroken
    """Times of the first broken bond, by the bonds of the first frame and by those of the topology."""


def prepare_md_benchmark(
    config: MDBenchmarkConfig,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    on_frames: Show = lambda done, total: None,
    say: Say = print,
) -> Prepared:
    """Read the reference and measure force error and speed, unless the directory has the measurements.

    Args:
        config: settings.
        out: directory to create or to resume in.
        device: cpu or cuda.
        resume: resume a benchmark, which may be made longer.
        on_frames: called with done and total frames of the force error.
        say: receives messages.

    Raises:
        ValueError: the data is no trajectory of one molecule with forces, or the directory holds another run.
    """
    check_directory(config, out, resume)
    device = resolve_device(device)
    store, tests = _read(config, say)
    reference = ReferenceGeometry.of(_frames(store, np.arange(len(store))))
    generator = np.random.default_rng(config.seed)
    starts = generator.choice(tests, config.replicas, replace=config.replicas > len(tests))
    n_frames = config.n_steps // RECORD_EVERY + 1
    drawn = generator.choice(len(store), n_frames, replace=n_frames > len(store))
    noise = histogram_error(ReferenceGeometry.of(_frames(store, drawn)).histogram, reference.histogram)
    potential = _potential(config, store[int(starts[0])], device)
    molecules = load_start(out / START_FILE) if resume else [store[int(i)] for i in starts]
    save_settings(config, out, molecules, resume)
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
    on_record: OnRecord | None = None,
    say: Say = print,
) -> MDBenchmark:
    """Run the dynamics, or resume them.

    Args:
        before: the benchmark prepared in the same directory, on the same device.
        out: directory of the benchmark.
        device: cpu or cuda.
        resume: resume from the last saved state.
        on_record: called at each record, with the wall time of this process in seconds.
        say: receives messages.

    Raises:
        InterruptedRunError: stopped by a signal; the state is saved.
    """
    config = before.config
    device = resolve_device(device)
    dynamics, distances, broken = _dynamics(before, out, device)
    seconds, steps = run(dynamics, config.n_steps, out, resume, on_record, say)
    simulation = Simulation(config.as_simulation(), dynamics, distances, before.molecules, seconds, steps)
    return MDBenchmark(before, simulation, broken)


def _read(config: MDBenchmarkConfig, say: Say) -> tuple[MoleculeStore, Int64[np.ndarray, " n"]]:
    """Return the data and its test frames."""
    store, report = load_store(config.data, config.units.reading())
    say(str(report))
    if store[0].n_atoms < 2:
        raise ValueError(f"{config.data}: a single atom has neither bonds nor distances; give a molecule")
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
    """Yield the positions of frames; all must be of the same atoms in the same order."""
    numbers = torch.from_numpy(store[0].atomic_numbers)
    for first in range(0, len(rows), CHUNK):
        batch = store.gather(rows[first : first + CHUNK])
        if not torch.equal(batch.atomic_numbers, numbers.repeat(batch.n_molecules)):
            raise ValueError(
                "expected a trajectory of one molecule, the same atoms in the same order; frames "
                f"{first} to {first + batch.n_molecules - 1} have others"
            )
        yield batch.positions.reshape(batch.n_molecules, len(numbers), 3)


def _potential(config: MDBenchmarkConfig, molecule: Molecule, device: str) -> Potential:
    if config.model is None:
        make_calculator(config.calculator, molecule.charge)  # fails before anything is written
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
