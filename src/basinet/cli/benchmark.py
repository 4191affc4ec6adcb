"""The commands that compare a model with published protocols."""

from pathlib import Path
from typing import Annotated

import typer

from basinet.cli.arguments import READING, Device, Resume
from basinet.cli.data import ensure_fetched
from basinet.cli.settings import Listed, command_with, from_options
from basinet.cli.simulate import StepWatcher
from basinet.terminal import columns, progress, say, table

benchmark = typer.Typer(help="Published benchmarks on models, ours and others.", no_args_is_help=True)
MD17_MD = Listed(
    path="basinet.commands.simulate.settings:MDBenchmarkConfig",
    without=("model", "units"),
    flags={"frames": "--format"},
)


@benchmark.callback()
def _group() -> None:
    """Published benchmarks on models, ours and others."""


@benchmark.command("md17-md", cls=command_with(MD17_MD, READING))
def md17_md(
    data: Annotated[
        Path, typer.Option(help="Reference trajectory of one molecule with forces: md17:aspirin, or a file or store.")
    ],
    model: Annotated[Path | None, typer.Argument(help="Model file (*.safetensors); or --calculator.")] = None,
    out: Annotated[Path, typer.Option(help="Directory to make or to resume.")] = Path("md17-md"),
    device: Device = "cpu",
    resume: Resume = False,
) -> None:
    """Force error, stability and distances of 300 ps at 500 K: the benchmark "Forces are not Enough" (TMLR 2023).

    Runs of the published length take hours; --picoseconds and --replicas shorten them, and the result says so. Ctrl-C
    saves, and the same command with --resume continues; with more --picoseconds it runs longer.
    """
    from basinet.commands.simulate.benchmark import prepare_md_benchmark, run_md_benchmark
    from basinet.commands.simulate.benchmark_report import RUN_HEADER, report_benchmark, run_cells
    from basinet.commands.simulate.settings import DT

    ensure_fetched([data])
    config = from_options(MD17_MD, data=data, model=model, units=from_options(READING))
    with progress("force error", "frames") as show:
        before = prepare_md_benchmark(config, out, device=device, resume=resume, on_frames=show, say=say)
    with progress("dynamics", "steps") as show:
        watch = StepWatcher(show, config.n_steps, DT)
        done = run_md_benchmark(before, out, device=device, resume=resume, on_record=watch, say=say)
    found = report_benchmark(done, out)
    table(f"{out}", found.rows)
    columns("runs", RUN_HEADER, [run_cells(one) for one in found.runs])
    say(f"report: {found.report}; table: {out / 'result.md'}; numbers: {out / 'result.json'}")
