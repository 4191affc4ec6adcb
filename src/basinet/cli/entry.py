"""The command line: all commands, and errors as one line.

Every command is a thin call of a function that Python can call too. Heavy imports are inside the commands, so that
``--help`` and a typing error answer at once.
"""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from basinet import __version__
from basinet.cli import answer, model, train
from basinet.cli import simulate as dynamics
from basinet.cli.arguments import READING, READING_PROPERTY
from basinet.cli.benchmark import benchmark
from basinet.cli.data import data
from basinet.cli.recipes import RecipeCommand
from basinet.cli.settings import Listed, command_with, from_options
from basinet.errors import RunError
from basinet.terminal import errors, say

EXIT_STOPPED = 2
"""Exit code of wrong input, a run that cannot continue, and Ctrl-C."""

ORDER = [
    "quickstart",
    "data",
    "pretrain",
    "finetune",
    "compare",
    "evaluate",
    "predict",
    "embed",
    "simulate",
    "certify",
    "info",
    "ensemble",
    "convert",
    "export",
    "benchmark",
    "debug-step",
]
"""Order of the commands in the help."""


class InOrder(TyperGroup):
    """Commands in :data:`ORDER`; any other after them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(super().list_commands(ctx), key=lambda name: [*ORDER, name].index(name))


app = typer.Typer(
    cls=InOrder,
    help="Pre-train, fine-tune and run energy-based equivariant networks for 3D molecules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data, name="data")
app.add_typer(benchmark, name="benchmark")
app.command(cls=RecipeCommand)(train.pretrain)
app.command(cls=RecipeCommand)(train.finetune)
app.command(cls=RecipeCommand)(train.compare)
app.command("debug-step")(train.debug_step)
app.command(cls=command_with(READING_PROPERTY))(answer.evaluate)
app.command(cls=command_with(READING))(answer.predict)
app.command()(answer.embed)
app.command(cls=command_with(dynamics.SETTINGS))(dynamics.simulate)
for command in (model.certify, model.info, model.ensemble, model.convert, model.export):
    app.command()(command)
QUICKSTART = Listed(path="basinet.quickstart:QuickstartConfig", only=("seeds", "processes"))


@app.command(cls=command_with(QUICKSTART))
def quickstart(
    out: Annotated[Path, typer.Option(help="Directory to work in; the same command resumes there.")] = Path(
        "quickstart"
    ),
) -> None:
    """From SMILES to a fine-tuned force field and a report, in minutes, on this machine alone."""
    from basinet.quickstart import quickstart as run

    run(from_options(QUICKSTART), out)


def _print_version(wanted: bool | None) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = None,
    plugin: Annotated[
        Path | None, typer.Option(help="Python file that defines the network of a model file; it is run.")
    ] = None,
) -> None:
    """Pre-train, fine-tune and run energy-based equivariant networks for 3D molecules."""
    if plugin is not None:
        from basinet.backbones.plugin import load_plugin

        load_plugin(plugin)


TYPER_INTERRUPTED = 130
"""Exit code of typer on Ctrl-C; it does not let the KeyboardInterrupt through."""


def main() -> NoReturn:
    """Run the command line; errors that a user can correct are one line and exit code 2.

    ``BASINET_TRACEBACK=1`` shows the traceback.
    """
    replace_characters()
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        if end.code != TYPER_INTERRUPTED:
            raise
        _stop("interrupted; what was finished is saved")
    except (ValueError, OSError, ImportError, RunError) as error:
        if os.environ.get("BASINET_TRACEBACK") == "1":
            raise
        _stop(str(error) or type(error).__name__)
    sys.exit(0)


def replace_characters() -> None:
    """Let characters that an output cannot encode be replaced: a run is never stopped by its log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _stop(message: str) -> NoReturn:
    errors.print(f"basinet: {message}", markup=False, soft_wrap=True)
    sys.exit(EXIT_STOPPED)
