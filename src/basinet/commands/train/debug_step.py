"""Compute a training step that failed again, to find the molecules to blame."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch

from basinet.backbones.build import build_backbone
from basinet.commands.recipe import FinetuneRecipe, PretrainRecipe, TrainableRecipe, load_recipe, read_yaml
from basinet.commands.run_directory import RECIPE_FILE
from basinet.commands.train.plugin import PLUGIN_FILE
from basinet.commands.train.replay import training_objective
from basinet.models.model import build_model_of
from basinet.objectives.base import mean_terms
from basinet.structures.segment import max_norm
from basinet.training.failure import FAILURE_FILE, load_failure


class BadMolecule(NamedTuple):
    """A molecule whose own loss is not finite."""

    molecule: int
    """Its index in the training data, or in its source."""
    force: float
    """Largest force label, eV/Å."""
    source: str
    """Name of its source; "" if there was one source only."""


class FailedStep(NamedTuple):
    """A step whose loss was not finite."""

    step: int
    terms: dict[str, float]
    """Mean of each term of the loss."""
    bad_molecules: list[BadMolecule]
    """Molecules whose own loss is not finite."""


def debug_step(run: Path) -> FailedStep:
    """Compute the loss of the failed step of a run again on the CPU, of the whole batch and of each molecule.

    The shares of several processes are joined. The noise of a step that failed on a GPU is drawn anew.

    Raises:
        FileNotFoundError: the run has no saved failure.
    """
    path = run / FAILURE_FILE
    if not path.exists():
        raise FileNotFoundError(f"{run} has no {FAILURE_FILE}: no step of this run failed")
    recipe = _recipe(run)
    failures = [load_failure(file) for file in (path, *sorted(run.glob(f"rank*-{FAILURE_FILE}")))]
    step = failures[0].step
    objective = training_objective(recipe)
    first = failures[0]
    model = build_model_of(build_backbone(recipe.model), first.heads, first.properties)
    model.load_state_dict(first.weights)
    model.train()
    generator = torch.Generator()
    sums = dict.fromkeys(objective.weights, 0.0)
    counts = dict.fromkeys(objective.weights, 0.0)
    for failure in failures:
        if failure.generator.shape == generator.get_state().shape:  # that of a GPU means nothing to a CPU
            generator.set_state(failure.generator)
        for batch in failure.batches:
            for key, value in objective.sums(model, batch, generator).items():
                sums[key] += float(value.detach())
                counts[key] += objective.counts(batch)[key]
    model.eval()
    bad: list[BadMolecule] = []
    for source, batch in (
        (s, b) for failure in failures for s, b in zip(failure.sources, failure.batches, strict=True)
    ):
        for index in range(batch.n_molecules):
            one = batch.select([index])
            values = objective.sums(model, one, generator).values()
            if not all(bool(torch.isfinite(value)) for value in values):
                force = max_norm(one.labels["forces"].double()) if "forces" in one.labels else float("nan")
                bad.append(BadMolecule(index if one.ids is None else int(one.ids[0]), force, source))
    return FailedStep(step, mean_terms(sums, counts), bad)


def _recipe(run: Path) -> TrainableRecipe:
    path = run / RECIPE_FILE
    kind = PretrainRecipe if "validation_fraction" in read_yaml(path) else FinetuneRecipe
    recipe = load_recipe(kind, path, [])
    return recipe if recipe.plugin is None else dataclasses.replace(recipe, plugin=run / PLUGIN_FILE)
