"""What pre-training and fine-tuning have in common: data looked at before it is trained on, and the run itself."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from lightning_fabric import Fabric

from basinet.backbones.build import BackboneConfig
from basinet.data.check import ConsistencyReport, require_consistent
from basinet.data.splits import Split
from basinet.data.store import MoleculeStore
from basinet.models.checkpoint import save_model
from basinet.models.model import Model
from basinet.objectives.base import Objective
from basinet.recipe import FinetuneRecipe, PretrainRecipe
from basinet.runs import common
from basinet.training.fit import FitResult, Progress, fit

SPLIT_FILE = "split.json"

Recipe = TypeVar("Recipe", PretrainRecipe, FinetuneRecipe)
Say = Callable[[str], None]
OnProgress = Callable[[Progress], None]


class RunData(NamedTuple):
    """Data that can be trained on."""

    store: MoleculeStore
    split: Split
    consistency: ConsistencyReport


def silent(line: str) -> None:
    """Say nothing."""


def read_run_data(
    recipe: Recipe, objective: Objective, draw_split: Callable[[MoleculeStore, Recipe], Split], say: Say
) -> RunData:
    """Read and split the data of a run and say what it is.

    Raises:
        ValueError: it contradicts itself, or a part lacks what a term of the loss needs.
    """
    store, read = common.read_data(recipe.data, recipe.units)
    consistency = require_consistent(store, str(recipe.data))
    split = draw_split(store, recipe)
    for part, indices in (("training", split.train), ("validation", split.validation)):
        common.require_data(objective, store, indices, f"the {part} part of {recipe.data}")
    say(read)
    say(f"units and signs: {consistency.verdict} ({consistency.reason})")
    sizes = f"{len(split.train)} conformations to train on, {len(split.validation)} to validate on"
    say(f"{sizes}, {len(split.test)} to test on" if len(split.test) else sizes)
    return RunData(store, split, consistency)


def train(
    model: Model,
    backbone: BackboneConfig,
    objective: Objective,
    data: RunData,
    recipe: Recipe,
    out: Path,
    fabric: Fabric,
    *,
    resume: bool,
    on_progress: OnProgress | None,
) -> FitResult:
    """Train a model in the run directory ``out`` and leave its best and its last weights there."""
    store, split, consistency = data
    recipe = dataclasses.replace(recipe, model=backbone)
    common.check_directory(out, recipe, resume, fabric)
    if fabric.is_global_zero:
        common.write_directory(out, recipe)
        split.save(out / SPLIT_FILE)
        common.write_data_record(out, store, {"split": split.hash, "consistency": consistency.reason})
    fabric.barrier()
    training, validation = common.loaders(store, split, recipe.training, fabric)
    result = fit(
        model,
        objective,
        training,
        recipe.training,
        out,
        validate=common.validation(objective, validation, fabric.device),
        save_best=common.best_model_saver(out, backbone, recipe, store),
        fabric=fabric,
        resume=resume and common.can_resume(out),
        on_progress=on_progress,
    )
    if fabric.is_global_zero:
        metadata = common.run_metadata(recipe, store, result.step, {"loss": result.best})
        save_model(model, out / common.LAST_FILE, backbone, metadata)
    return result
