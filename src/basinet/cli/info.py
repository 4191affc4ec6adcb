"""The commands about model files themselves."""

from pathlib import Path
from typing import Annotated

import typer

from basinet.cli.arguments import ModelFile
from basinet.terminal import say, table


def info(model: ModelFile) -> None:
    """Show what a model is, what it was trained on, what it may be asked about, and its certificate."""
    from basinet.commands.info import describe_model

    table(str(model), describe_model(model))


def ensemble(
    models: Annotated[
        list[Path], typer.Argument(metavar="A B... OUT", help="Models of one network, and the file to make.")
    ],
) -> None:
    """Join models that were trained with different seeds into one: its answers are their mean, with their spread.

    Predictions have a standard deviation then, and dynamics can stop where the members disagree (--stop-force-std).
    """
    from basinet.commands.ensemble import join_models

    if len(models) < 3:
        raise ValueError(f"expected at least two models and then the file to make, got {' '.join(map(str, models))}")
    *files, out = models
    committee = join_models(files, out)
    say(f"{len(committee.models)} models in {out}; basinet info {out} says what they know")
