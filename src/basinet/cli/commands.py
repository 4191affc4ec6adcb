"""The command line. Every command is a thin call of a function that Python can call too.

Imports of the heavy kind are inside the commands, so that ``--help`` and a typing error answer at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from basinet import __version__
from basinet.cli.arguments import (
    Arguments,
    CompareCommand,
    DataFile,
    Device,
    EnergyKey,
    EnergyUnit,
    FinetuneCommand,
    ForcesKey,
    LengthUnit,
    ModelFile,
    Out,
    PretrainCommand,
    PropertyKey,
    PropertyUnit,
    RecipeArguments,
    Resume,
)
from basinet.cli.assay import finetune_table, is_assay
from basinet.cli.benchmark import benchmark
from basinet.cli.certify import certify
from basinet.cli.compare import compare
from basinet.cli.data import data
from basinet.cli.dynamics import simulate
from basinet.cli.exchange import convert, export
from basinet.cli.fetching import data_of, ensure_fetched
from basinet.cli.infer import embed, predict
from basinet.cli.info import ensemble, info
from basinet.cli.watch import Watcher
from basinet.errors import RunError
from basinet.terminal import columns, errors, progress, say

EXIT_STOPPED = 2
"""Wrong input, a run that cannot go on, and Ctrl-C."""

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
"""Of the commands in the help: as a person meets them."""


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
app.command(cls=CompareCommand)(compare)
app.command()(certify)
app.command()(convert)
app.command()(export)
app.command()(simulate)
app.command()(embed)
app.command()(info)
app.command()(ensemble)
app.command()(predict)


@app.command(cls=PretrainCommand)
def pretrain(arguments: Arguments, out: Out, resume: Resume = False) -> None:
    """Pre-train a model on many molecules."""
    from basinet.commands import pretrain as run
    from basinet.commands.recipe import PretrainRecipe, load_recipe

    given = RecipeArguments.parse(arguments)
    recipe = load_recipe(PretrainRecipe, given.recipe, given.overrides, data=given.all_data)
    ensure_fetched(data_of(recipe))
    with progress("pre-training") as show:
        result = run(recipe, out, resume=resume, on_progress=Watcher(show), say=say)
    if result.is_main:
        say(f"best validation loss {result.fit.best:.4g} at step {result.fit.best_step}; model: {result.model}")


@app.command(cls=FinetuneCommand)
def finetune(arguments: Arguments, out: Out, resume: Resume = False) -> None:
    """Fine-tune a model on your labelled conformations or molecules, or train one from scratch.

    With target=COLUMN the data is a table of SMILES, and that column is learned: basinet finetune assay.csv
    target=pIC50 split=scaffold from=MODEL --out DIR. Its options are listed after the others.
    """
    from basinet.commands import finetune as run
    from basinet.commands.answer.evaluate import describe_errors
    from basinet.commands.recipe import FinetuneRecipe, load_recipe

    given = RecipeArguments.parse(arguments)
    if is_assay(given):
        finetune_table(given, out, resume)
        return
    recipe = load_recipe(FinetuneRecipe, given.recipe, given.overrides, data=given.one_data)
    ensure_fetched(data_of(recipe))
    with progress("fine-tuning") as show:
        result = run(recipe, out, resume=resume, on_progress=Watcher(show), say=say)
    if result.is_main:
        say(f"best validation loss {result.fit.best:.4g} at step {result.fit.best_step}; model: {result.model}")
    if result.test is not None:
        say(f"test: {describe_errors(result.test)}")


@app.command()
def evaluate(
    model: ModelFile,
    molecules: DataFile,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    property_key: PropertyKey = None,
    property_unit: PropertyUnit = None,
    device: Device = "cpu",
    force_correlation: Annotated[
        bool,
        typer.Option(
            "--force-correlation/--errors",
            help="Correlate the forces that the energy and the noise of a model imply with those of the file.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the correlation as force_correlation.json and .png.")
    ] = None,
) -> None:
    """Compare the energies and forces, or the property, of a model with the labels of a file."""
    from basinet.commands import correlate_file, evaluate_file, write_correlation
    from basinet.commands.answer.evaluate import describe_errors
    from basinet.commands.recipe import UnitsConfig

    ensure_fetched([molecules])
    units = UnitsConfig(
        energy_unit=energy_unit,
        length_unit=length_unit,
        energy_key=energy_key,
        forces_key=forces_key,
        property_key=property_key,
        property_unit=property_unit,
    )
    if force_correlation:
        curves, read = correlate_file(model, molecules, units, device)
        say(read)
        _show_correlation(curves)
        if out is not None:
            write_correlation(curves, out)
        return
    if out is not None:
        raise ValueError("--out is for --force-correlation; errors are only printed")
    found, read = evaluate_file(model, molecules, units, device)
    say(read)
    say(describe_errors(found))


def _show_correlation(curves: Any) -> None:
    sources = sorted(curves.curves)
    header = ["from", "to", "frames", "atoms", *(f"{s}: {what}" for s in sources for what in ("Pearson", "cosine"))]
    bins = [*zip(*(curves.curves[s] for s in sources), strict=True), tuple(curves.whole[s] for s in sources)]
    rows = [
        [f"{b[0].lower:.3g}", f"{b[0].upper:.3g}", f"{b[0].n_molecules}", f"{b[0].n_atoms}"]
        + [f"{value:.3f}" for one in b for value in (one.pearson, one.cosine)]
        for b in bins
    ]
    columns(f"implied and reference forces by {curves.axis}; last row: all", header, rows)
    if curves.n_left_out:
        say(f"{curves.n_left_out} frames are of compounds without a minimum in the data; they are left out")


@app.command()
def debug_step(
    run: Annotated[Path, typer.Argument(help="Directory of a run that stopped at a loss that is not finite.")],
) -> None:
    """Compute the failed step of a run again and name the molecules to blame."""
    from basinet.commands import debug_step as compute_again

    found = compute_again(run)
    say(f"step {found.step}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.terms.items()))
    for index, force, source in found.bad_molecules:
        where = source or "the data"
        say(f"molecule {index} of {where} alone gives a loss that is not finite; largest force label {force:.3g} eV/Å")
    if not found.bad_molecules:
        say("each molecule alone gives a finite loss: the weights or the gradient overflow, not the data")


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Directory to work in; an interrupted quickstart goes on there.")] = Path(
        "quickstart"
    ),
    seeds: Annotated[int, typer.Option(help="Repetitions of the fine-tuning, with different labels and weights.")] = 1,
    processes: Annotated[int | None, typer.Option(help="Processes for labelling; all cores without a number.")] = None,
) -> None:
    """From SMILES to a fine-tuned force field and a report, in minutes, on this machine alone."""
    from basinet.quickstart import QuickstartConfig
    from basinet.quickstart import quickstart as run

    run(QuickstartConfig(seeds=seeds, processes=processes), out)


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
"""The code that typer exits with on Ctrl-C; it does not let the KeyboardInterrupt through."""


def main() -> NoReturn:
    """Run the command line: what a user can mend is one line and exit code 2, never a traceback.

    ``BASINET_TRACEBACK=1`` shows the traceback all the same.
    """
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


def _stop(message: str) -> NoReturn:
    errors.print(f"basinet: {message}", markup=False, soft_wrap=True)
    sys.exit(EXIT_STOPPED)
