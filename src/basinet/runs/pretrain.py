"""Pre-training: many molecules, one model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.data.check import require_consistent
from basinet.data.splits import Split, random_split, split_by_smiles
from basinet.data.store import MoleculeStore
from basinet.models.checkpoint import load_model, n_parameters, save_model
from basinet.models.model import Model, build_model, with_outputs
from basinet.objectives.config import build_objective
from basinet.recipe import PretrainRecipe
from basinet.runs import common
from basinet.training.fit import FitResult, Progress, check_objective, fit

Say = Callable[[str], None]


class PretrainResult(NamedTuple):
    """What a pre-training left behind."""

    model: Path
    """The model with the lowest validation loss."""
    fit: FitResult
    is_main: bool
    """Whether this is the process that speaks for all of a run."""


def pretrain(
    recipe: PretrainRecipe,
    out: Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    say: Say = lambda line: None,
) -> PretrainResult:
    """Pre-train a model and leave it, its recipe and its metrics in ``out``.

    Args:
        recipe: what to do.
        out: run directory; a new one, or one to resume.
        resume: go on with the run in ``out``, bit for bit.
        on_progress: called after each step.
        say: called with lines about what is being done.
    """
    fabric = common.launch(recipe.launch)
    store, read = common.read_data(recipe.data, recipe.units)
    consistency = require_consistent(store, str(recipe.data))
    split = _split(store, recipe)
    objective = build_objective(recipe.objective)
    for part, indices in (("training", split.train), ("validation", split.validation)):
        common.require_data(objective, store, indices, f"the {part} part of {recipe.data}")
    torch.manual_seed(recipe.training.seed)
    model, backbone = _model(recipe, objective.requires, store, split)
    check_objective(model, objective)
    recipe = dataclasses.replace(recipe, model=backbone)
    common.check_directory(out, recipe, resume, fabric)
    if fabric.is_global_zero:
        common.write_directory(out, recipe)
        split.save(out / "split.json")
        common.write_data_record(out, store, {"split": split.hash, "consistency": consistency.reason})
        say(read)
        say(f"units and signs: {consistency.verdict} ({consistency.reason})")
        say(f"{len(split.train)} conformations to train on, {len(split.validation)} to validate on")
        say(
            f"{n_parameters(model):,} parameters; loss: "
            + " + ".join(f"{w:g} {k}" for k, w in objective.weights.items())
        )
    fabric.barrier()
    train, validation = common.loaders(store, split, recipe.training, fabric)
    result = fit(
        model,
        objective,
        train,
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
    return PretrainResult(out / common.MODEL_FILE, result, fabric.is_global_zero)


def _split(store: MoleculeStore, recipe: PretrainRecipe) -> Split:
    """Hold out whole compounds where the data says which they are, and there are several."""
    if all(store.smiles) and len(set(store.smiles)) > 1:
        return split_by_smiles(store, recipe.validation_fraction, recipe.training.seed)
    n_validation = max(1, round(recipe.validation_fraction * len(store)))
    if n_validation >= len(store):
        raise ValueError(f"{recipe.data} has {len(store)} molecules; too few to keep some for validation")
    return random_split(len(store), validation=n_validation, test=0, seed=recipe.training.seed)


def _model(
    recipe: PretrainRecipe, requires: frozenset[str], store: MoleculeStore, split: Split
) -> tuple[Model, BackboneConfig]:
    if recipe.start is None:
        model = build_model(build_backbone(recipe.model), requires | {"energy"})
        common.start_from_statistics(model, common.label_statistics(store, split.train, recipe.training.seed))
        backbone = recipe.model
    else:
        file = load_model(recipe.start)
        model, backbone = with_outputs(file.model, requires), file.backbone
    model.scope = common.extended_scope(model.scope, store, sorted(store.elements))
    return model, backbone
