"""The command that says whether pre-training helped on somebody's data."""

from typing import Annotated

import typer

from basinet.cli.arguments import Out, RecipeArguments
from basinet.cli.fetching import ensure_fetched
from basinet.terminal import columns, progress, say


def compare(
    arguments: Annotated[
        list[str],
        typer.Argument(help="A file of molecules or a store, from=scratch,MODEL, and key=value options."),
    ],
    out: Out,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with the comparison in --out.")] = False,
) -> None:
    """Fine-tune from several starts with few and many labels: did pre-training help on this data?"""
    from basinet.commands.compare import CompareRecipe
    from basinet.commands.compare import compare as run
    from basinet.commands.recipe import load_recipe
    from basinet.evaluation.compare_page import readings, table_of, write_comparison_page

    given = RecipeArguments.parse(arguments)
    recipe = load_recipe(CompareRecipe, given.recipe, given.overrides, data=given.one_data)
    ensure_fetched([recipe.data])
    with progress("training steps of all runs") as show:
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
