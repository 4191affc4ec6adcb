"""The commands that run molecular dynamics."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from basinet.cli.arguments import DataFile, Device, ModelFile, Resume
from basinet.terminal import columns, progress, say, table

EXIT_FAILED = 1
"""A replica failed."""
SHOWN = 16
"""Replicas listed in the terminal."""


def simulate(
    model: ModelFile,
    molecules: DataFile,
    out: Annotated[Path, typer.Option(help="Directory to make (or to go on in).")] = Path("simulation"),
    temperature: Annotated[float, typer.Option(help="K.")] = 300.0,
    picoseconds: Annotated[float, typer.Option(help="How long; with --resume it may be longer than before.")] = 10.0,
    replicas: Annotated[int, typer.Option(help="Copies that run at once, each with its own random numbers.")] = 16,
    starts: Annotated[int, typer.Option(help="Molecules of the file to start from, in turn.")] = 1,
    dt: Annotated[float, typer.Option(help="Time step, fs.")] = 0.5,
    thermostat: Annotated[
        Literal["langevin", "nve", "nose-hoover"], typer.Option(help="nve: none, at constant energy.")
    ] = "langevin",
    friction: Annotated[float, typer.Option(help="Of langevin, 1/fs.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of velocities and noise.")] = 0,
    record_every: Annotated[int, typer.Option(help="Steps between records.")] = 20,
    frames: Annotated[
        Literal["extxyz", "traj", "hdf5"],
        typer.Option("--format", help="Of the frames; hdf5 is one file for all replicas, for many of them."),
    ] = "extxyz",
    bond_tolerance: Annotated[float, typer.Option(help="A bond off by more than this is broken, Å.")] = 0.5,
    stop_force_std: Annotated[
        float | None,
        typer.Option(help="Stop a replica where the models of an ensemble disagree about a force by more, eV/Å."),
    ] = None,
    relax: Annotated[bool, typer.Option("--relax/--as-is", help="Go downhill (FIRE) before.")] = False,
    outside_scope: Annotated[
        Literal["error", "warn"], typer.Option(help="A start unlike what the model was trained on.")
    ] = "error",
    device: Device = "cpu",
    resume: Resume = False,
) -> None:
    """Run molecular dynamics of many replicas with a model, and write a report.

    Exit code 0: all replicas stayed whole; 1: some failed (see bad_frames.extxyz); 2: wrong input, or stopped by
    Ctrl-C, with everything saved for --resume.
    """
    from basinet.commands.simulate.settings import SimulateConfig

    config = SimulateConfig(
        model=model,
        molecules=molecules,
        temperature=temperature,
        picoseconds=picoseconds,
        replicas=replicas,
        starts=starts,
        dt=dt,
        thermostat=thermostat,
        friction=friction,
        seed=seed,
        record_every=record_every,
        frames=frames,
        bond_tolerance=bond_tolerance,
        stop_force_std=stop_force_std,
        relax=relax,
        outside_scope=outside_scope,
    )
    _run(config, out, device, resume)


def _run(config: Any, out: Path, device: Device, resume: bool) -> None:
    """Simulate, and show what came of it."""
    from basinet.commands.simulate.report import replica_cells, summarise
    from basinet.commands.simulate.simulate import simulate_file

    with progress("simulating") as show:
        watch = StepWatcher(show, config.n_steps, config.dt)
        done = simulate_file(config, out, device=device, resume=resume, on_record=watch, say=say)
    found = summarise(done, out)
    table(f"{out}", found.rows)
    if found.n_failed:
        worst = sorted((r for r in found.replicas if r.reason), key=lambda r: r.stable_ps)[:SHOWN]
        header = ["replica", "whole, ps", "stopped by", "mean T, K", "drift, meV/atom/ps", "bond, Å", "RMSD, Å"]
        columns("replicas that stopped", header, [replica_cells(one) for one in worst])
        say(f"the frames in which they stopped: {out / 'bad_frames.extxyz'}")
    say(f"report: {found.report}")
    if found.n_failed:
        raise typer.Exit(EXIT_FAILED)


class StepWatcher:
    """Moves a bar with the records of a simulation, twice a second at most."""

    def __init__(self, show: Callable[..., None], n_steps: int, dt: float) -> None:
        self.show, self.n_steps, self.dt = show, n_steps, dt
        self.shown, self.first = 0.0, -1

    def __call__(self, record: Any, seconds: float) -> None:
        """Show picoseconds, speed, temperature, and how many go on."""
        self.first = record.step if self.first < 0 else self.first
        now = time.monotonic()
        if now - self.shown < 0.5 and record.step < self.n_steps:
            return
        self.shown = now
        alive = record.active
        warmth = record.temperature[alive].nanmean()
        speed = (record.step - self.first) * self.dt * 1e-6 / max(seconds, 1e-9) * 86400
        note = f"{record.time / 1000:.4g} ps, {speed:.3g} ns/day, T {warmth:.0f} K, {int(alive.sum())} of {len(alive)}"
        self.show(record.step, self.n_steps, note)
