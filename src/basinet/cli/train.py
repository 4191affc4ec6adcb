"""The commands that train: pretrain, finetune, compare, debug-step."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from basinet.cli.arguments import Arguments, Out, Resume
from basinet.cli.data import ensure_fetched
from basinet.cli.recipes import RecipeArguments
from basinet.terminal import Show, columns, progress, say

if TYPE_CHECKING:
    from basinet.commands.assay.finetune import AssayResult
    from basinet.training.fit import Progress


def pretrain(arguments: Arguments, out: Out, resume: Resume = False) -> None:
    """Pre-train a model on many molecules."""
    from basinet.commands.recipe import PretrainRecipe, load_recipe
    from basinet.commands.train.pretrain import pretrain as run

    given = RecipeArguments.parse(arguments)
    recipe = load_recipe(PretrainRecipe, given.recipe, given.overrides, data=given.all_data)
    ensure_fetched(_data_of(recipe))
    with progress("pre-training", "steps") as show:
        result = run(recipe, out, resume=resume, on_progress=watcher(show), say=say)
    if result.is_main:
        say(f"best validation loss {result.fit.best:.4g} at step {result.fit.best_step}; model: {result.model}")


def finetune(arguments: Arguments, out: Out, resume: Resume = False) -> None:
    """Fine-tune a model on labelled conformations, or train one from scratch.

    With target=COLUMN the data is a table of SMILES, and that column is learned, as in:
    basinet finetune assay.csv target=pIC50 split=scaffold from=MODEL --out DIR
    """
    from basinet.commands.answer.evaluate import describe_errors
    from basinet.commands.recipe import FinetuneRecipe, load_recipe
    from basinet.commands.train.finetune import finetune as run

    given = RecipeArguments.parse(arguments)
    if _is_assay(given):
        _finetune_table(given, out, resume)
        return
    recipe = load_recipe(FinetuneRecipe, given.recipe, given.overrides, data=given.one_data)
    ensure_fetched(_data_of(recipe))
    with progress("fine-tuning", "steps") as show:
        result = run(recipe, out, resume=resume, on_progress=watcher(show), say=say)
    if result.is_main:
        say(f"best validation loss {result.fit.best:.4g} at step {result.fit.best_step}; model: {result.model}")
    if result.test is not None:
        say(f"test: {describe_errors(result.test)}")


def _is_assay(given: RecipeArguments) -> bool:
    """Return whether an option or the recipe names a column to learn."""
    from basinet.commands.recipe import read_recipe_file

    if any(option.partition("=")[0] == "target" for option in given.overrides):
        return True
    return given.recipe is not None and "target" in read_recipe_file(given.recipe)


def _finetune_table(given: RecipeArguments, out: Path, resume: bool) -> None:
    """Learn a column of a table and print its test errors."""
    from basinet.commands.assay.finetune import finetune_assay
    from basinet.commands.assay.recipe import AssayRecipe
    from basinet.commands.recipe import load_recipe

    recipe = load_recipe(AssayRecipe, given.recipe, given.overrides, data=given.one_data)
    with ExitStack() as stack:
        shown = stack.enter_context(ExitStack())

        def next_line(title: str, unit: str) -> Show:
            shown.close()
            return shown.enter_context(progress(title, unit))

        def on_member(number: int) -> Callable[["Progress"], None]:
            several = f" {number + 1} of {recipe.ensemble}" if recipe.ensemble > 1 else ""
            return watcher(next_line(f"fine-tuning{several}", "steps"))

        show = next_line("conformers", "compounds")
        result = finetune_assay(recipe, out, resume=resume, on_conformers=show, on_member=on_member, say=say)
    _show_assay(result, recipe.target)


def _show_assay(result: "AssayResult", target: str) -> None:
    if result.test:
        header = ["", "MAE", "RMSE", "R²", "Spearman"]
        rows = [
            [name, *(f"{x:.3g}" if math.isfinite(x) else "-" for x in (e.mae, e.rmse, e.r2, e.spearman))]
            for name, e in result.test.items()
        ]
        n = next(iter(result.test.values())).n
        columns(f"{target} of {n} test compounds", header, rows)
    say(f"model: {result.model}")


def watcher(show: Show) -> Callable[["Progress"], None]:
    """Return a function that shows the steps of a run, with the loss and the last validation."""
    validation = ""

    def watch(step: "Progress") -> None:
        nonlocal validation
        if (found := step.validation) is not None:
            if "force_mae" in found:
                validation = f"  force MAE {1000 * found['force_mae']:.4g} meV/Å"
            else:
                validation = f"  validation {found['loss']:.4g}"
            if "stability" in found:
                validation += f"  stable {found['stability']:.3g} ps"
        show(step.step, step.n_steps, f"loss {step.loss:.4g}{validation}")

    return watch


def _data_of(recipe: Any) -> list[Path]:
    """Return every path to data in a recipe, the minima of ``replay`` included."""
    given = [recipe.data]
    replay = vars(recipe).get("replay")
    if replay is not None:
        given.append(replay.data)
    return [path for one in given for path in ([one] if isinstance(one, Path) else [source.path for source in one])]


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA from=A,B KEY=VALUE...",
            help="A file of molecules or a store, the starts, and options as key=value.",
        ),
    ],
    out: Out,
    resume: Resume = False,
) -> None:
    """Fine-tune from several starts with few and many labels: did pre-training help on this data?"""
    from basinet.commands.compare import CompareRecipe
    from basinet.commands.compare import compare as run
    from basinet.commands.recipe import load_recipe
    from basinet.evaluation.compare_page import readings, table_of, write_comparison_page

    given = RecipeArguments.parse(arguments)
    recipe = load_recipe(CompareRecipe, given.recipe, given.overrides, data=given.one_data)
    ensure_fetched([recipe.data])
    with progress("comparing", "steps") as show:
        found = run(recipe, out, resume=resume, watch=show, say=say)
    table = table_of(found.curves)
    columns("test errors", table.header, table.rows)
    say(table.caption)
    for line in readings(found.curves):
        say(line)
    config = recipe.training
    batch = f"{config.batch_atoms} atoms" if config.batch_size is None else str(config.batch_size)
    lead = (
        f"Data: {recipe.data.name}. {found.n_test} conformations to test on, {found.n_validation} to choose the best "
        f"step; {config.n_steps} steps of {batch} for every run, with the same learning rate."
    )
    say(f"page: {write_comparison_page(found.curves, out, lead)}")


def debug_step(
    run: Annotated[Path, typer.Argument(help="Directory of a run that stopped at a loss that is not finite.")],
) -> None:
    """Recompute the failed step of a run and name the molecules whose loss is not finite."""
    from basinet.commands.train.debug_step import debug_step as recompute

    found = recompute(run)
    say(f"step {found.step}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.terms.items()))
    for index, force, source in found.bad_molecules:
        where = source or "the data"
        say(f"molecule {index} of {where} alone gives a loss that is not finite; largest force label {force:.3g} eV/Å")
    if not found.bad_molecules:
        say("each molecule alone gives a finite loss: the weights or the gradient overflow, not the data")
