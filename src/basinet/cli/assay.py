"""The command that learns from a table of SMILES."""

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinet.cli.arguments import RecipeArguments
from basinet.cli.watch import Watcher
from basinet.terminal import columns, progress, say

if TYPE_CHECKING:
    from basinet.commands.assay.finetune import AssayResult


def is_assay(given: RecipeArguments) -> bool:
    """Return whether a column is to be learned: an option, or the recipe, says target."""
    from basinet.commands.recipe import read_recipe_file

    if any(option.partition("=")[0] == "target" for option in given.overrides):
        return True
    return given.recipe is not None and "target" in read_recipe_file(given.recipe)


def finetune_table(given: RecipeArguments, out: Path, resume: bool) -> None:
    """Learn a column of a table and print what came of it."""
    from basinet.commands.assay.finetune import finetune_assay
    from basinet.commands.assay.recipe import AssayRecipe
    from basinet.commands.recipe import load_recipe

    recipe = load_recipe(AssayRecipe, given.recipe, given.overrides, data=given.one_data)
    with ExitStack() as stack:
        bars: list[ExitStack] = []

        def next_bar(title: str) -> Any:
            for bar in bars:
                bar.close()
            bars[:] = [stack.enter_context(ExitStack())]
            return bars[0].enter_context(progress(title))

        show = next_bar("conformers")

        def on_member(number: int) -> Watcher:
            several = f" {number + 1} of {recipe.ensemble}" if recipe.ensemble > 1 else ""
            return Watcher(next_bar(f"fine-tuning{several}"))

        result = finetune_assay(recipe, out, resume=resume, on_conformers=show, on_member=on_member, say=say)
    _show(result, recipe.target)


def _show(result: "AssayResult", target: str) -> None:
    if result.test:
        header = ["", "MAE", "RMSE", "R²", "Spearman"]
        rows = [
            [name, *(f"{x:.3g}" if math.isfinite(x) else "-" for x in (e.mae, e.rmse, e.r2, e.spearman))]
            for name, e in result.test.items()
        ]
        n = next(iter(result.test.values())).n
        columns(f"{target} of {n} test compounds", header, rows)
    say(f"model: {result.model}")
