"""The command line. Every command is a thin call of a function that Python can call too.

Imports of the heavy kind are inside the commands, so that ``--help`` and a typing error answer at once.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from basinet import __version__
from basinet.errors import RunError
from basinet.terminal import columns, console, errors, findings, progress, say, table

if TYPE_CHECKING:
    from basinet.training.fit import Progress

EXIT_STOPPED = 2
"""Wrong input, a run that cannot go on, and Ctrl-C."""
EXIT_FAULT = 1
"""Data with a fault."""

app = typer.Typer(
    help="Pre-train, fine-tune and run energy-based equivariant networks for 3D molecules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Make molecular data and look at it.", no_args_is_help=True)
app.add_typer(data, name="data")

Arguments = Annotated[
    list[str], typer.Argument(help="A recipe (*.yaml), data files or stores, and key=value options, in any order.")
]
Out = Annotated[Path, typer.Option(help="Run directory to make (or to resume).")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with the run in --out.")]
ModelFile = Annotated[Path, typer.Argument(help="Model file (*.safetensors).")]
DataFile = Annotated[Path, typer.Argument(help="Molecules: .xyz, .extxyz, .sdf, .npz, or a store.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
EnergyUnit = Annotated[
    str | None, typer.Option(help="Unit of the energies in the file: eV, meV, Ha, kcal/mol, kJ/mol.")
]
PropertyKey = Annotated[
    str | None, typer.Option(help="Column of the property in the file; without it, the name of the property.")
]
PropertyUnit = Annotated[
    str | None, typer.Option(help="Unit of the property in the file: eV, D, bohr^3, cal/mol/K ..., 1 for none.")
]
LengthUnit = Annotated[str | None, typer.Option(help="Unit of the positions in the file: Angstrom, bohr, nm.")]


class RecipeCommand(TyperCommand):
    """A command whose ``--help`` lists the options of its recipe."""

    recipe = ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the usual help, then every option with its allowed values, default and meaning."""
        super().format_help(ctx, formatter)
        from rich.markup import escape
        from rich.padding import Padding

        import basinet.data.generate as generate
        import basinet.recipe as recipes
        import basinet.runs.build_store as build_store

        kind = {
            "pretrain": recipes.PretrainRecipe,
            "finetune": recipes.FinetuneRecipe,
            "generate": generate.GenerateConfig,
            "build": build_store.BuildRecipe,
        }[self.recipe]
        console.print("\n Options of the recipe, as [bold]key=value[/bold] or in a YAML file:\n")
        for option in recipes.describe(kind):
            allowed = "" if option.kind == option.default else f"  ({option.kind})"
            console.print(f" [bold]{option.name}[/bold]={escape(option.default + allowed)}")
            console.print(Padding(escape(" ".join(option.text.split())), (0, 0, 0, 6)))


class PretrainCommand(RecipeCommand):
    """Lists the options of pre-training."""

    recipe = "pretrain"


class FinetuneCommand(RecipeCommand):
    """Lists the options of fine-tuning."""

    recipe = "finetune"


class BuildCommand(RecipeCommand):
    """Lists the options of building a store."""

    recipe = "build"


class GenerateCommand(RecipeCommand):
    """Lists the options of data generation."""

    recipe = "generate"


@dataclass(frozen=True, kw_only=True)
class RecipeArguments:
    """Positional arguments of a command with a recipe, told apart by their look."""

    recipe: Path | None
    data: Sequence[Path]
    overrides: Sequence[str]

    @staticmethod
    def parse(arguments: Sequence[str]) -> "RecipeArguments":
        """Sort arguments into recipe, data and options."""
        overrides = [a for a in arguments if "=" in a and not Path(a).exists()]
        paths = [Path(a) for a in arguments if a not in overrides]
        recipes = [p for p in paths if p.suffix in (".yaml", ".yml")]
        files = [p for p in paths if p not in recipes]
        _require_one("recipe", recipes)
        return RecipeArguments(recipe=_packaged(recipes[0]) if recipes else None, data=files, overrides=overrides)

    @property
    def one_data(self) -> str | None:
        """The data file, where there may be only one."""
        _require_one("data file", self.data)
        return str(self.data[0]) if self.data else None

    @property
    def all_data(self) -> str | list[str] | None:
        """The data file, or several."""
        return list(map(str, self.data)) if len(self.data) > 1 else self.one_data


def _require_one(kind: str, found: Sequence[Path]) -> None:
    if len(found) > 1:
        raise ValueError(f"expected one {kind}, got {', '.join(map(str, found))}")


def _packaged(path: Path) -> Path:
    """Return a recipe file, or the one of that name that comes with basinet."""
    from basinet.recipe import RECIPES

    shipped = RECIPES / path.name
    return shipped if not path.exists() and path.parent == Path() and shipped.exists() else path


@data.command(cls=GenerateCommand)
def generate(
    out: Annotated[Path, typer.Argument(help="Store to make (or to resume).")],
    options: Annotated[list[str] | None, typer.Argument(help="A recipe (*.yaml) and key=value options.")] = None,
) -> None:
    """Make labelled data from SMILES: conformers, minima and dynamics, with energies and forces."""
    from basinet.data.generate import GenerateConfig
    from basinet.data.generate import generate as run
    from basinet.recipe import load_recipe

    given = RecipeArguments.parse(options or [])
    config = load_recipe(GenerateConfig, given.recipe, given.overrides)
    with progress("molecules") as show:
        store = run(config, out, lambda p: show(p.done, p.total, f"{p.frames} frames, {p.failed} molecules failed"))
    _show_store(out, store)


@data.command(cls=BuildCommand)
def build(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... OUT", help="Files and stores to read, the store to make (or to resume), key=value options."
        ),
    ],
) -> None:
    """Read files of any known format, and stores, into one store."""
    from basinet.recipe import load_recipe
    from basinet.runs.build_store import SKIPPED_FILE, BuildRecipe
    from basinet.runs.build_store import build as run

    given = RecipeArguments.parse(arguments)
    if len(given.data) < 2:
        raise ValueError(f"expected files to read and then the store to make, got {' '.join(arguments)}")
    *files, out = given.data
    recipe = load_recipe(BuildRecipe, given.recipe, given.overrides, data=list(map(str, files)))
    with progress("molecules") as show:
        built = run(recipe, out, lambda done, name: show(done, None, name))
    _show_store(out, built.store)
    for report in built.reports:
        say(str(report))
    if any(report.skipped for report in built.reports):
        say(f"the records that were skipped are listed in {out / SKIPPED_FILE}")


@data.command()
def info(
    store: DataFile,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    perceive_bonds: Annotated[
        bool, typer.Option("--perceive-bonds/--file-bonds", help="Find bonds where there are none on record.")
    ] = False,
) -> None:
    """Say what is in a store or a file, and whether its energies and forces fit each other."""
    from basinet.data import perception
    from basinet.data.readers import load_store

    found, report = load_store(store, energy_unit=energy_unit, length_unit=length_unit)
    lines = [str(report)] if store.is_file() else []
    if perceive_bonds:
        found, bonds = perception.perceive_bonds(found)
        lines.append(str(bonds))
    _show_store(store, found)
    for line in lines:
        say(line)


@data.command()
def check(
    molecules: DataFile,
    against: Annotated[Path | None, typer.Option(help="Other data that must not hold the same conformations.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with figures to write: a .html file or a directory.")] = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    energy_key: Annotated[str | None, typer.Option(help="Where the energies are in the file.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Where the forces are in the file.")] = None,
) -> None:
    """Look for faults in data: units, signs, copies, outliers. Exit code 1 if there is a fault."""
    from basinet.runs.check_data import check_data

    units = {"energy_unit": energy_unit, "length_unit": length_unit}
    found = check_data(molecules, against, **units, energy_key=energy_key, forces_key=forces_key)
    findings(str(molecules), ((f.check, f.verdict, f.evidence, f.fix) for f in found.findings))
    if page is not None:
        from basinet.evaluation.data_page import write_data_page

        say(f"page: {write_data_page(found, page)}")
    say(f"verdict: {found.verdict}")
    if found.verdict == "fault":
        raise typer.Exit(EXIT_FAULT)


def _show_store(path: Path, store: Any) -> None:
    from basinet.data.check import check_consistency

    manifest = store.manifest
    sizes = store.atoms_per_molecule
    check = check_consistency(store)
    rows = {
        "molecules": f"{len(store):,} conformations of {len(set(store.smiles) - {''}) or 'unknown'} compounds",
        "atoms": f"{int(sizes.sum()):,}; {sizes.min()} to {sizes.max()} a molecule" if len(sizes) else "none",
        "elements": ", ".join(f"{symbol} {count:,}" for symbol, count in manifest.elements.items()),
        "labels": ", ".join(f"{name} of {count:,}" for name, count in store.label_counts.items()) or "none",
        "bonds": f"of {store.bond_counts['bonds']:,}, with bond orders of {store.bond_counts['bond_orders']:,}",
        "level of theory": manifest.level_of_theory or "not on record",
        "source": manifest.source or "not on record",
        "skipped": ", ".join(f"{count:,} {reason}" for reason, count in manifest.skipped.items()) or "nothing",
        "units and signs": f"{check.verdict}: {check.reason}",
        "fingerprint": store.fingerprint,
    }
    table(str(path), rows)


@app.command(cls=PretrainCommand)
def pretrain(arguments: Arguments, out: Out, resume: Resume = False) -> None:
    """Pre-train a model on many molecules."""
    from basinet.recipe import PretrainRecipe, load_recipe
    from basinet.runs import pretrain as run

    given = RecipeArguments.parse(arguments)
    recipe = load_recipe(PretrainRecipe, given.recipe, given.overrides, data=given.all_data)
    with progress("pre-training") as show:
        result = run(recipe, out, resume=resume, on_progress=_Watcher(show), say=say)
    if result.is_main:
        say(f"best validation loss {result.fit.best:.4g} at step {result.fit.best_step}; model: {result.model}")


@app.command(cls=FinetuneCommand)
def finetune(arguments: Arguments, out: Out, resume: Resume = False) -> None:
    """Fine-tune a model on your labelled conformations or molecules, or train one from scratch."""
    from basinet.recipe import FinetuneRecipe, load_recipe
    from basinet.runs import finetune as run
    from basinet.runs.finetune import describe_errors

    given = RecipeArguments.parse(arguments)
    recipe = load_recipe(FinetuneRecipe, given.recipe, given.overrides, data=given.one_data)
    with progress("fine-tuning") as show:
        result = run(recipe, out, resume=resume, on_progress=_Watcher(show), say=say)
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
    from basinet.recipe import UnitsConfig
    from basinet.runs import correlate_file, evaluate_file, write_correlation
    from basinet.runs.finetune import describe_errors

    units = UnitsConfig(
        energy_unit=energy_unit, length_unit=length_unit, property_key=property_key, property_unit=property_unit
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
def predict(model: ModelFile, molecules: DataFile, out: Path, device: Device = "cpu") -> None:
    """Write an extxyz with the energies (eV) and forces (eV/Å) of a model, or with its property and the unit of it."""
    from basinet.runs import predict_file

    count = predict_file(model, molecules, out, device)
    say(f"{count} molecules written to {out}")


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="Directory of a run that stopped at a loss that is not finite.")],
) -> None:
    """Compute the failed step of a run again and name the molecules to blame."""
    from basinet.runs import replay as run_again

    found = run_again(run)
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
) -> None:
    """Pre-train, fine-tune and run energy-based equivariant networks for 3D molecules."""


class _Watcher:
    """Moves a bar with the steps of a run, and keeps the last validation in sight."""

    def __init__(self, show: Any) -> None:
        self.show = show
        self.note = ""

    def __call__(self, step: "Progress") -> None:
        if step.validation is not None:
            shown = {"loss": step.validation["loss"]}
            if "force_mae" in step.validation:
                shown["force MAE, meV/Å"] = 1000 * step.validation["force_mae"]
            self.note = "validation " + ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
        self.show(step.step, step.n_steps, f"loss {step.loss:.4g} {self.note}")


def main() -> NoReturn:
    """Run the command line: what a user can mend is one line and exit code 2, never a traceback.

    ``BASINET_TRACEBACK=1`` shows the traceback all the same.
    """
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        _stop("interrupted; what was finished is saved")
    except (ValueError, OSError, ImportError, RunError) as error:
        if os.environ.get("BASINET_TRACEBACK") == "1":
            raise
        _stop(str(error) or type(error).__name__)
    sys.exit(0)


def _stop(message: str) -> NoReturn:
    errors.print(f"basinet: {message}", markup=False, soft_wrap=True)
    sys.exit(EXIT_STOPPED)
