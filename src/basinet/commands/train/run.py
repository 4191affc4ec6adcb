"""Run a training from its recipe to its models: the frame of pre-training and fine-tuning."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric

from basinet.commands.launch import launch
from basinet.commands.progress import Say, silent
from basinet.commands.recipe import FinetuneRecipe, TrainableRecipe
from basinet.commands.run_directory import (
    LAST_FILE,
    SPLIT_FILE,
    best_model_saver,
    check_directory,
    run_metadata,
    write_data_record,
    write_directory,
)
from basinet.commands.statistics import MODEL_BATCH
from basinet.commands.train.data import DrawSplit, RunData, read_run_data
from basinet.commands.train.kernels import use_kernels
from basinet.commands.train.mixture import mixture_loaders
from basinet.commands.train.plugin import keep_plugin, objective_of, one_line_errors, require_same_plugin
from basinet.commands.train.replay import replay_objective, with_replay
from basinet.commands.train.start import Start
from basinet.commands.train.validation import (
    STABILITY,
    mixture_validation,
    property_validation,
    validation,
    with_stability,
)
from basinet.data.stream.loader import Loader, Stream
from basinet.evaluation.metrics import Errors
from basinet.evaluation.properties import PropertyErrors
from basinet.models.checkpoint import n_parameters, save_model
from basinet.models.model import Model
from basinet.objectives.base import Objective, check_returned
from basinet.objectives.methods import property_settings
from basinet.objectives.replay import WithReplay
from basinet.training.fit import FitResult, Progress, Validate, fit
from basinet.training.state import STATE_FILE

N_REHEARSED = 8
"""Molecules whose loss is computed before a run begins."""

OnProgress = Callable[[Progress], None]
MakeStart = Callable[[Objective, RunData, Say], Start]


class Run(NamedTuple):
    """A run that has finished."""

    fabric: Fabric
    data: RunData
    fit: FitResult
    before: Errors | PropertyErrors | None
    """Errors on the validation set before training (:class:`~basinet.commands.train.start.Start`)."""


def run(
    recipe: TrainableRecipe,
    out: Path,
    draw_split: DrawSplit,
    make_start: MakeStart,
    *,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    say: Say = silent,
) -> Run:
    """Launch the processes, read the data, make the model, and train it."""
    fabric = launch(recipe.launch)
    say = say if fabric.is_global_zero else silent
    objective = objective_of(recipe)
    data = read_run_data(recipe, objective, draw_split, say)
    torch.manual_seed(recipe.training.seed)
    start = make_start(objective, data, say)
    loss = " + ".join(f"{weight:g} {term}" for term, weight in objective.weights.items())
    say(f"{n_parameters(start.model):,} parameters, from {recipe.start or 'scratch'}; loss: {loss}")
    use_kernels(start.model.backbone, recipe.launch, fabric.device, say)
    result = train(start, objective, data, recipe, out, fabric, resume=resume, on_progress=on_progress)
    return Run(fabric, data, result, start.before)


def train(
    start: Start,
    objective: Objective,
    data: RunData,
    recipe: TrainableRecipe,
    out: Path,
    fabric: Fabric,
    *,
    resume: bool,
    on_progress: OnProgress | None,
) -> FitResult:
    """Train a model in the run directory ``out``; save its best and its last weights there."""
    model, backbone = start.model, start.backbone
    rehearse(model, objective, data, recipe.plugin)
    recipe = dataclasses.replace(recipe, model=backbone)
    require_same_plugin(recipe, out)
    check_directory(out, recipe, resume)
    fabric.barrier()  # nobody writes before all have looked
    if fabric.is_global_zero:
        _write_start(out, recipe, data)
    fabric.barrier()
    training, validate = _streams(recipe, objective, data, fabric)
    by_stability = isinstance(recipe, FinetuneRecipe) and recipe.select_by == STABILITY
    if isinstance(recipe, FinetuneRecipe) and by_stability:
        validate = with_stability(validate, recipe.stability, data.store, data.split, fabric.device)
    result = fit(
        model,
        objective if data.replay is None else WithReplay(objective, replay_objective(data.replay.config)),
        training,
        recipe.training,
        out,
        validate=validate,
        save_best=best_model_saver(out, backbone, recipe, data.store),
        fabric=fabric,
        select_by=STABILITY if by_stability else None,
        # A run killed before it saved a state begins again at step 0.
        resume=resume and (out / STATE_FILE).exists(),
        on_progress=on_progress,
    )
    if fabric.is_global_zero:
        metadata = run_metadata(recipe, data.store, result.step, {"loss": result.best})
        save_model(model, out / LAST_FILE, backbone, metadata)
    return result


def rehearse(model: Model, objective: Objective, data: RunData, plugin: Path | None) -> None:
    """Compute the loss of a few molecules, so that what the data lacks shows before anything is written."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for name, store, split in data.each():
            few = store.gather(split.train[:N_REHEARSED])
            try:
                with one_line_errors(plugin):
                    check_returned(objective, model, few, torch.Generator().manual_seed(0))
            except ValueError as error:
                raise ValueError(f"source {name}: {error}" if name else str(error)) from None
    model.train(was_training)


def _write_start(out: Path, recipe: TrainableRecipe, data: RunData) -> None:
    write_directory(out, recipe)
    keep_plugin(recipe, out)
    data.split.save(out / SPLIT_FILE)
    replayed = {} if data.replay is None else {"replay": data.replay.record}
    write_data_record(out, data.store, {**data.record, **replayed})


def _streams(recipe: TrainableRecipe, objective: Objective, data: RunData, fabric: Fabric) -> tuple[Stream, Validate]:
    """Return this process's share of the training data, and the validation."""
    if data.mixture is not None:
        mixed, validations = mixture_loaders(data.mixture, recipe.training, fabric)
        return mixed, mixture_validation(objective, validations, fabric)
    stream: Stream = Loader(
        data.store,
        data.split.train,
        batch_size=recipe.training.batch_size,
        batch_atoms=recipe.training.batch_atoms,
        seed=recipe.training.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    if data.replay is not None:
        stream = with_replay(stream, data.replay, recipe.training.seed, fabric)
    held_out = Loader(data.store, data.split.validation, batch_size=MODEL_BATCH, seed=0, shuffle=False)
    target = property_settings(recipe.objective)
    if target is not None:
        return stream, property_validation(target.label, held_out)
    return stream, validation(objective, held_out, fabric)
