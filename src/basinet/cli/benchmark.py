"""The commands that compare a model with published protocols."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from basinet.cli.arguments import Device, EnergyKey, EnergyUnit, ForcesKey, LengthUnit, Resume
from basinet.cli.dynamics import StepWatcher
from basinet.cli.fetching import ensure_fetched
from basinet.terminal import columns, progress, say, table

benchmark = typer.Typer(help="Published benchmarks on models, ours and others.", no_args_is_help=True)


@benchmark.callback()
def _group() -> None:
    """Published benchmarks on models, ours and others."""


@benchmark.command("md17-md")
def md17_md(
    data: Annotated[
        Path, typer.Option(help="Reference trajectory of one molecule with forces: md17:aspirin, or a file or store.")
    ],
    model: Annotated[Path | None, typer.Argument(help="Model file (*.safetensors); or --calculator.")] = None,
    out: Annotated[Path, typer.Option(help="Directory to make (or to go on in).")] = Path("md17-md"),
    calculator: Annotated[
        str, typer.Option(help="In place of a model, a calculator of ASE: module:function or file.py:function.")
    ] = "",
    split: Annotated[
        str,
        typer.Option(help="Its test part gives starts and force errors: a name, a split.json, or all for every frame."),
    ] = "md17-mdsim",
    picoseconds: Annotated[float, typer.Option(help="Length of each run; 300 as published.")] = 300.0,
    replicas: Annotated[int, typer.Option(help="Runs, all at once; 5 as published.")] = 5,
    test_frames: Annotated[int, typer.Option(help="For the force error, at most; 10,000 as published.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of starts and velocities.")] = 123,
    frames: Annotated[
        Literal["extxyz", "traj", "hdf5"], typer.Option("--format", help="Of the frames that are written.")
    ] = "extxyz",
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    device: Device = "cpu",
    resume: Resume = False,
) -> None:
    """Force error, stability and distances of 300 ps at 500 K: the benchmark "Forces are not Enough" (TMLR 2023).

    Runs of the published length take hours; --picoseconds and --replicas shorten them, and the result says so. Ctrl-C
    saves, and the same command with --resume goes on; with more --picoseconds it goes on for longer.
    """
    from basinet.commands.recipe import UnitsConfig
    from basinet.commands.simulate.benchmark import prepare_md_benchmark, run_md_benchmark
    from basinet.commands.simulate.benchmark_report import RUN_HEADER, report_benchmark, run_cells
    from basinet.commands.simulate.settings import DT, MDBenchmarkConfig

    ensure_fetched([data])
    config = MDBenchmarkConfig(
        data=data,
        model=model,
        calculator=calculator,
        split=split,
        picoseconds=picoseconds,
        replicas=replicas,
        test_frames=test_frames,
        seed=seed,
        frames=frames,
        units=UnitsConfig(
            energy_unit=energy_unit, length_unit=length_unit, energy_key=energy_key, forces_key=forces_key
        ),
    )
    with progress("force error") as show:
        before = prepare_md_benchmark(config, out, device=device, resume=resume, on_frames=show, say=say)
    with progress("dynamics") as show:
        watch = StepWatcher(show, config.n_steps, DT)
        done = run_md_benchmark(before, out, device=device, resume=resume, on_record=watch, say=say)
    found = report_benchmark(done, out)
    table(f"{out}", found.rows)
    columns("runs", RUN_HEADER, [run_cells(one) for one in found.runs])
    say(f"report: {found.report}; table: {out / 'result.md'}; numbers: {out / 'result.json'}")
