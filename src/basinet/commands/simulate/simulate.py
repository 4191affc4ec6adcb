"""Molecular dynamics with a model: replicas of a molecule, files that grow while they run, and a report.

A directory of a simulation holds ``simulation.yaml`` (what was asked for), ``start.npz``, ``state.pt`` (to go on from),
``records.csv``, the frames (:mod:`basinet.md.frames`), ``bad_frames.extxyz`` if a replica failed, and at the end
``summary.json``, ``report.html`` and its pictures.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from basinet.commands.answer.load import load_energy_model
from basinet.commands.recipe import read_yaml, save_recipe
from basinet.commands.simulate.report_page import SPREAD_COLUMN
from basinet.commands.simulate.settings import SimulateConfig
from basinet.commands.simulate.start import Say, load_start, prepare_start, save_start
from basinet.config import dump_settings, read_settings
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
SAVE_SECONDS = 30.0
"""Between saved states."""


class Simulation(NamedTuple):
    """A simulation that ran, and what is needed to tell about it."""

    config: SimulateConfig
    dynamics: Dynamics
    distances: DistanceCounts
    molecules: list[Molecule]
    """The start of each replica."""
    seconds: float
    """Wall time of this process."""
    steps_done: int
    """By this process."""


def simulate_file(
    config: SimulateConfig,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    stop_when: Mapping[str, StopWhen] | None = None,
    on_record: Callable[[Record, float], None] | None = None,
    say: Say = print,
) -> Simulation:
    """Simulate, or go on with a simulation; it may be made longer then.

    Args:
        config: what to do.
        out: directory to make or to go on in.
        device: cpu or cuda.
        resume: go on from the last saved state, bit for bit.
        stop_when: further reasons to stop a replica, by what to call them: the spread of an ensemble, say.
        on_record: called at each record, with the wall time of this process in seconds.
        say: called with lines about what is noticed.

    Raises:
        InterruptedRunError: asked to stop by a signal; the state is saved.
        ValueError: the start cannot be simulated, or the directory holds another simulation.
    """
    check_directory(config, out, resume)
    model = load_energy_model(config.model, device)
    further, limits = _spread_of(config, model)
    potential = model_potential(model)
    molecules = load_start(out / START_FILE) if resume else prepare_start(config, model, potential, device, say)
    replicas = [molecules[i % len(molecules)] for i in range(config.replicas)]
    bonds = reference_bonds(replicas).to(device)
    batch = collate(replicas, torch.float64).to(device)
    if not resume:  # nothing is written before all that can be refused has been
        out.mkdir(parents=True, exist_ok=True)
        save_start(out / START_FILE, molecules)
    save_recipe(config, out / SETTINGS_FILE)
    dynamics, distances = _dynamics(config, potential, batch, bonds, out, {**limits, **(stop_when or {})}, further)
    if resume and (out / STATE_FILE).exists():
        dynamics.load(out / STATE_FILE)
        say(f"going on at {dynamics.time / 1000:.4g} ps")
    begin, first = time.monotonic(), dynamics.state.step
    advance(dynamics, config.n_steps, out, lambda r: on_record and on_record(r, time.monotonic() - begin))
    return Simulation(config, dynamics, distances, replicas, time.monotonic() - begin, dynamics.state.step - first)


def _dynamics(
    config: SimulateConfig,
    potential: Potential,
    batch: Batch,
    bonds: Bonds,
    out: Path,
    stop_when: Mapping[str, StopWhen],
    further: Mapping[str, Quantity],
) -> tuple[Dynamics, DistanceCounts]:
    integrator = _integrator(config)
    state = start(potential, batch, integrator, config.temperature, replica_seeds(config.seed, batch.n_molecules))
    distances = DistanceCounts(batch, half=config.picoseconds * 500)
    observers = [
        Table(out / RECORDS_FILE, {**standard_quantities(batch, bonds), **further}),
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


def _spread_of(config: SimulateConfig, model: Model | Committee) -> tuple[dict[str, Quantity], dict[str, StopWhen]]:
    """Return the column of the spread of forces and the limit of it, if there are several models."""
    if isinstance(model, Model):
        if config.stop_force_std is not None:
            raise ValueError(
                f"a limit of the spread of forces needs several models, and {config.model} is one; join some that "
                "were trained with different seeds (basinet ensemble A B C OUT)"
            )
        return {}, {}
    spread = ForceSpread(model)
    column: dict[str, Quantity] = {SPREAD_COLUMN: lambda record: spread(record.state.batch)}
    limit = config.stop_force_std
    return column, {} if limit is None else {FORCES_APART: SpreadLimit(spread, limit)}


def advance(dynamics: Dynamics, n_steps: int, out: Path, on_record: Callable[[Record], Any]) -> None:
    """Run to the end, save now and then into ``out``, and stop when asked to.

    Raises:
        InterruptedRunError: asked to stop by a signal; the state is saved.
    """
    saved = time.monotonic()
    with stop_on_signals() as request:
        while dynamics.state.step < n_steps and not dynamics.all_failed and not request.is_set:
            until = min(n_steps, dynamics.state.step + dynamics.record_every)
            dynamics.run(until, stop=lambda: request.is_set, on_record=on_record)
            if time.monotonic() - saved > SAVE_SECONDS:
                dynamics.save(out / STATE_FILE)
                saved = time.monotonic()
        dynamics.save(out / STATE_FILE)
        if request.is_set and dynamics.state.step < n_steps:
            length = n_steps * dynamics.integrator.dt / 1000
            raise InterruptedRunError(
                f"stopped at {dynamics.time / 1000:.4g} of {length:g} ps; everything is saved, and the "
                "same command with --resume goes on"
            )


@runtime_checkable
class Lasting(Protocol):
    """Settings of what can be made longer."""

    @property
    def picoseconds(self) -> float:
        """How long."""
        ...


def check_directory(config: Lasting, out: Path, resume: bool) -> None:
    """Refuse a directory that holds something else than what ``config`` began, or something longer."""
    has_run = (out / SETTINGS_FILE).exists()
    if not resume:
        if has_run:
            raise ValueError(f"{out} holds a simulation already; go on with it (--resume) or choose another --out")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out} exists and is no simulation; choose another --out")
        return
    if not has_run:
        raise ValueError(f"{out} holds no simulation to resume; leave --resume out to start one")
    old = dump_settings(read_settings(type(config), read_yaml(out / SETTINGS_FILE), str(out / SETTINGS_FILE)))
    new = dump_settings(config)
    changed = [f"{k} was {old[k]}, now {new[k]}" for k in new if k != "picoseconds" and new[k] != old[k]]
    if changed:
        raise ValueError(f"{out} was started with other settings: {'; '.join(changed)}")
    if new["picoseconds"] < old["picoseconds"]:
        raise ValueError(f"{out} was to be {old['picoseconds']:g} ps long; it can be made longer, not shorter")
