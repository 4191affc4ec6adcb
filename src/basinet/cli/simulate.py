"""The command that runs molecular dynamics."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from basinet.cli.arguments import DataFile, Device, ModelFile, Resume
from basinet.cli.settings import Listed, from_options
from basinet.terminal import columns, progress, say, table

EXIT_FAILED = 1
"""A replica failed."""
SHOWN = 16
"""Replicas listed in the terminal."""
SETTINGS = Listed(
    path="basinet.commands.simulate.settings:SimulateConfig",
    flags={"frames": "--format", "relax": "--relax/--as-is"},
)


def simulate(
    model: ModelFile,
    molecules: DataFile,
    out: Annotated[Path, typer.Option(help="Directory to make or to resume.")] = Path("simulation"),
    device: Device = "cpu",
    resume: Resume = False,
) -> None:
    """Run molecular dynamics of many replicas with a model, and write a report.

    Exit code 0: all replicas stayed intact; 1: some failed (see bad_frames.extxyz); 2: wrong input, or stopped by
    Ctrl-C, with everything saved for --resume.
    """
    from basinet.commands.simulate.report import replica_cells, summarise
    from basinet.commands.simulate.simulate import simulate_file

    config = from_options(SETTINGS, model=model, molecules=molecules)
    with progress("simulating", "steps") as show:
        watch = StepWatcher(show, config.n_steps, config.dt)
        done = simulate_file(config, out, device=device, resume=resume, on_record=watch, say=say)
    found = summarise(done, out)
    table(f"{out}", found.rows)
    if found.n_failed:
        worst = sorted((r for r in found.replicas if r.reason), key=lambda r: r.stable_ps)[:SHOWN]
        header = ["replica", "intact, ps", "stopped by", "mean T, K", "drift, meV/atom/ps", "bond, Å", "RMSD, Å"]
        columns("replicas that stopped", header, [replica_cells(one) for one in worst])
        say(f"the frames in which they stopped: {out / 'bad_frames.extxyz'}")
    say(f"report: {found.report}")
    if found.n_failed:
        raise typer.Exit(EXIT_FAILED)


class StepWatcher:
    """Shows the records of a simulation, twice a second at most."""

    def __init__(self, show: Callable[..., None], n_steps: int, dt: float) -> None:
        self.show, self.n_steps, self.dt = show, n_steps, dt
        self.shown, self.first = 0.0, -1

    def __call__(self, record: Any, seconds: float) -> None:
        """Show the speed, the mean temperature, and the number of replicas that still run."""
        self.first = record.step if self.first < 0 else self.first
        now = time.monotonic()
        if now - self.shown < 0.5 and record.step < self.n_steps:
            return
        self.shown = now
        active = record.active
        temperature = record.temperature[active].nanmean()
        speed = (record.step - self.first) * self.dt * 1e-6 / max(seconds, 1e-9) * 86400
        note = f"{speed:.3g} ns/day  {temperature:.0f} K  {int(active.sum())}/{len(active)} intact"
        self.show(record.step, self.n_steps, note)
