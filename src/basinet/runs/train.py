"""What pre-training and fine-tuning have in common: data looked at before it is trained on, and the run itself."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
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
N_REHEARSED = 8
"""Molecules whose loss is computed before a run begins."""

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
    drawn = Split(
        train=used_by(objective, store, split.train),
        validation=used_by(objective, store, split.validation),
        test=split.test,
    )
    left_out = len(split.train) + len(split.validation) - len(drawn.train) - len(drawn.validation)
    if left_out:
        say(f"{left_out} conformations have nothing that a term of the loss is for; they are not drawn")
    split = drawn
    sizes = f"{len(split.train)} conformations to train on, {len(split.validation)} to validate on"
    say(f"{sizes}, {len(split.test)} to test on" if len(split.test) else sizes)
    return RunData(store, split, consistency)


def used_by(
    objective: Objective, store: MoleculeStore, indices: Int64[np.ndarray, " n_chosen"]
) -> Int64[np.ndarray, " n_used"]:
    """Return the chosen molecules that some term of the loss is for: the others would only thin out the batches."""
    used = indices[np.concatenate([objective.uses(batch).numpy() for batch in common.chunks(store, indices)])]
    if len(used) == 0:
        raise ValueError(
            f"none of {len(indices)} conformations has all that a term of the loss ({', '.join(objective.weights)}) "
            "needs at once; choose another objective (objective.kind=...) or data that has it"
        )
    return used


def rehearse(model: Model, objective: Objective, data: RunData) -> None:
    """Compute the loss of a few molecules: what the data lacks (bonds, say) shows before anything is written."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        objective.sums(model, data.store.gather(data.split.train[:N_REHEARSED]), torch.Generator().manual_seed(0))
    model.train(was_training)


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
    rehearse(model, objective, data)
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
