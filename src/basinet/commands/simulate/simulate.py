"""Run molecular dynamics of replicas of molecules with a model.

The directory of a simulation holds ``simulation.yaml`` (its settings), ``start.npz``, ``state.pt`` (to resume from),
``records.csv``, the trajectories (:mod:`basinet.md.frames`), ``bad_frames.extxyz`` if a replica failed, and in the end
``summary.json``, ``report.html`` and its pictures.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from basinet.commands.answer.load import load_energy_model
from basinet.commands.recipe import read_yaml, save_recipe
from basinet.commands.simulate.settings import MDBenchmarkConfig, SimulateConfig
from basinet.commands.simulate.start import Say, load_start, prepare_start, save_start
from basinet.config import dump_settings, read_settings
from basinet.devices import resolve_device
from basinet.files import room_for
from basinet.md.bonds import STRETCHED, Bonds, BondStretch, reference_bonds
from basinet.md.dynamics import Dynamics, Record, StopWhen, start
from basinet.md.frames import BadFrames, frame_writer
from basinet.md.integrators import Integrator, LangevinBAOAB, Potential, VelocityVerlet, replica_seeds
from basinet.md.nose_hoover import NoseHoover
from basinet.md.potentials import FORCES_APART, ForceSpread, SpreadLimit, model_potential
from basinet.md.running import DistanceCounts, Quantity, Table, standard_quantities
from basinet.models.committee import Committee
from basinet.models.model import Model
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate
from basinet.training.interrupt import InterruptedRunError, stop_on_signals

SETTINGS_FILE, START_FILE, STATE_FILE = "simulation.yaml", "start.npz", "state.pt"
RECORDS_FILE, BAD_FILE = "records.csv", "bad_frames.extxyz"
SPREAD_COLUMN = "force_std_eV_A"
"""Column of the largest deviation of a force between the members of an ensemble."""
SAVE_SECONDS = 30.0
"""Time between saved states."""

OnRecord = Callable[[Record, float], None]
"""Called at each record, with the wall time of this process in seconds."""


class Simulation(NamedTuple):
    """A finished simulation."""

    config: SimulateConfig
    dynamics: Dynamics
    distances: DistanceCounts
    molecules: list[Molecule]
    """Initial molecule of each replica."""
    seconds: float
    """Wall time of this process."""
    steps_done: int
    """Steps made by this process."""


def simulate_file(
    config: SimulateConfig,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    stop_when: Mapping[str, StopWhen] | None = None,
    on_record: OnRecord | None = None,
    say: Say = print,
) -> Simulation:
    """Run a simulation, or resume one, which may be made longer.

    Args:
        config: settings.
        out: directory to create or to resume in.
        device: cpu or cuda.
        resume: resume from the last saved state, bit for bit.
        stop_when: further conditions that stop a replica, by reason.
        on_record: called at each record, with the wall time of this process in seconds.
        say: receives messages.

    Raises:
        InterruptedRunError: stopped by a signal; the state is saved.
        ValueError: the molecules cannot be simulated, or the directory holds another simulation.
    """
    check_directory(config, out, resume)
    device = resolve_device(device)
    model = load_energy_model(config.model, device)
    columns, limits = _force_spread(config, model)
    potential = model_potential(model)
    molecules = load_start(out / START_FILE) if resume else prepare_start(config, model, potential, device, say)
    replicas = [molecules[i % len(molecules)] for i in range(config.replicas)]
    bonds = reference_bonds(replicas).to(device)
    batch = collate(replicas, torch.float64).to(device)
    save_settings(config, out, molecules, resume)  # nothing is written before all checks have passed
    dynamics, distances = _dynamics(config, potential, batch, bonds, out, {**limits, **(stop_when or {})}, columns)
    seconds, steps = run(dynamics, config.n_steps, out, resume, on_record, say)
    return Simulation(config, dynamics, distances, replicas, seconds, steps)


def save_settings(
    config: SimulateConfig | MDBenchmarkConfig, out: Path, molecules: list[Molecule], resume: bool
) -> None:
    """Write the settings and, for a new run, its initial molecules."""
    if not resume:
        out.mkdir(parents=True, exist_ok=True)
        with room_for(out / START_FILE):
            save_start(out / START_FILE, molecules)
    save_recipe(config, out / SETTINGS_FILE)


def _dynamics(
    config: SimulateConfig,
    potential: Potential,
    batch: Batch,
    bonds: Bonds,
    out: Path,
    stop_when: Mapping[str, StopWhen],
    columns: Mapping[str, Quantity],
) -> tuple[Dynamics, DistanceCounts]:
    integrator = _integrator(config)
    state = start(potential, batch, integrator, config.temperature, replica_seeds(config.seed, batch.n_molecules))
    distances = DistanceCounts(batch, half=config.picoseconds * 500)
    observers = [
        Table(out / RECORDS_FILE, {**standard_quantities(batch, bonds), **columns}),
        frame_writer(config.frames, out, batch),
        BadFrames(out / BAD_FILE, batch),
        distances,
    ]
    dynamics = Dynamics(
        potential,
        state,
        integrator,
        record_every=config.record_every,
        temperature_range=(0.0, config.hottest),
        stop_when={STRETCHED: BondStretch(bonds, config.bond_tolerance), **stop_when},
        observers=observers,
    )
    return dynamics, distances


def _integrator(config: SimulateConfig) -> Integrator:
    match config.thermostat:
        case "langevin":
            return LangevinBAOAB(dt=config.dt, temperature=config.temperature, friction=config.friction)
        case "nose-hoover":
            return NoseHoover(dt=config.dt, temperature=config.temperature)
        case "nve":
            return VelocityVerlet(dt=config.dt)


def _force_spread(config: SimulateConfig, model: Model | Committee) -> tuple[dict[str, Quantity], dict[str, StopWhen]]:
    """Return the column and the limit of the spread of forces in an ensemble; nothing for one model."""
    limit = config.stop_force_std
    if isinstance(model, Model):
        if limit is not None:
            raise ValueError(
                f"stop_force_std needs an ensemble, and {config.model} is one model; join several that were trained "
                "with different seeds (basinet ensemble A B C OUT)"
            )
        return {}, {}
    spread = ForceSpread(model)
    column: dict[str, Quantity] = {SPREAD_COLUMN: lambda record: spread(record.state.batch)}
    return column, {} if limit is None else {FORCES_APART: SpreadLimit(spread, limit)}


def run(
    dynamics: Dynamics, n_steps: int, out: Path, resume: bool, on_record: OnRecord | None, say: Say
) -> tuple[float, int]:
    """Run to step ``n_steps`` with saved states in ``out``; return the wall time (s) and the steps made here.

    Raises:
        InterruptedRunError: stopped by a signal; the state is saved.
    """
    if resume and (out / STATE_FILE).exists():
        dynamics.load(out / STATE_FILE)
        say(f"resuming at {dynamics.time / 1000:.4g} ps")
    begin, first = time.monotonic(), dynamics.state.step

    def observe(record: Record) -> None:
        if on_record is not None:
            on_record(record, time.monotonic() - begin)

    saved = begin
    with stop_on_signals() as request, room_for(out):
        while dynamics.state.step < n_steps and not dynamics.all_failed and not request.is_set:
            until = min(n_steps, dynamics.state.step + dynamics.record_every)
            dynamics.run(until, stop=lambda: request.is_set, on_record=observe)
            if time.monotonic() - saved > SAVE_SECONDS:
                dynamics.save(out / STATE_FILE)
                saved = time.monotonic()
        dynamics.save(out / STATE_FILE)
        if request.is_set and dynamics.state.step < n_steps:
            length = n_steps * dynamics.integrator.dt / 1000
            raise InterruptedRunError(
                f"stopped at {dynamics.time / 1000:.4g} of {length:g} ps; everything is saved, resume with the same "
                "command and --resume"
            )
    return time.monotonic() - begin, dynamics.state.step - first


def check_directory(config: SimulateConfig | MDBenchmarkConfig, out: Path, resume: bool) -> None:
    """Check that a directory is free for a new run or, to resume, holds one with the same settings, no longer one."""
    has_run = (out / SETTINGS_FILE).exists()
    if not resume:
        if has_run:
            raise ValueError(f"{out} holds a simulation already; resume it (--resume) or choose another --out")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} exists and is no simulation; choose another --out")
        return
    if not has_run:
        raise ValueError(f"{out} holds no simulation to resume; leave out --resume to start one")
    old = dump_settings(read_settings(type(config), read_yaml(out / SETTINGS_FILE), str(out / SETTINGS_FILE)))
    new = dump_settings(config)
    changed = [f"{k} was {old[k]}, now {new[k]}" for k in new if k != "picoseconds" and new[k] != old[k]]
    if changed:
        raise ValueError(f"{out} was started with other settings: {'; '.join(changed)}")
    if new["picoseconds"] < old["picoseconds"]:
        raise ValueError(
            f"{out} is to be {old['picoseconds']:g} ps long, got picoseconds={new['picoseconds']:g}; it can be made "
            "longer, not shorter"
        )
