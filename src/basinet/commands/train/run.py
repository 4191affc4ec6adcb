"""What pre-training and fine-tuning have in common: data looked at before it is trained on, and the run itself."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from lightning_fabric import Fabric

from basinet.backbones.build import BackboneConfig
from basinet.commands import common
from basinet.commands.bonds import bond_needs, lacking_bonds, with_bonds_known
from basinet.commands.properties import property_columns, property_validation
from basinet.commands.recipe import FinetuneRecipe, PretrainRecipe
from basinet.commands.train.plugin import keep_plugin, require_same_plugin
from basinet.commands.train.replay_data import ReplayData, replay_objective, with_replay
from basinet.commands.train.sources import (
    Mixture,
    mixture_loaders,
    mixture_validation,
    read_mixture,
    source_records,
    used_by,
)
from basinet.commands.train.stability import METRIC, with_stability
from basinet.data.doctor.check import require_consistent
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Stream
from basinet.data.stream.splits import Split
from basinet.models.file import save_model
from basinet.models.model import Model
from basinet.objectives.base import Objective
from basinet.objectives.config import property_settings
from basinet.objectives.replay import WithReplay
from basinet.training.fit import FitResult, Progress, Validate, fit

SPLIT_FILE = "split.json"
N_REHEARSED = 8
"""Molecules whose loss is computed before a run begins."""

Recipe = TypeVar("Recipe", PretrainRecipe, FinetuneRecipe)
Say = Callable[[str], None]
OnProgress = Callable[[Progress], None]


class RunData(NamedTuple):
    """Data that can be trained on."""

    store: MoleculeStore
    """Of several sources, all of them joined."""
    split: Split
    record: Mapping[str, Any]
    """What ``data.json`` says about it beside counts and hashes."""
    mixture: Mixture | None = None
    """The sources, if the recipe has a list of them."""
    replay: ReplayData | None = None
    """Minima to train on beside it."""


def silent(line: str) -> None:
    """Say nothing."""


def read_run_data(
    recipe: Recipe, objective: Objective, draw_split: Callable[[MoleculeStore, Recipe], Split], say: Say
) -> RunData:
    """Read and split the data of a run and say what it is.

    Raises:
        ValueError: it contradicts itself, or a part lacks what a term of the loss needs.
    """
    path = recipe.data
    if not isinstance(path, Path):
        assert isinstance(recipe, PretrainRecipe)
        return _mixed_data(read_mixture(recipe, objective), say)
    target = property_settings(recipe.objective)
    columns = property_columns(path, recipe.units, None if target is None else target.label)
    needs = bond_needs(recipe, objective)
    store, read = common.read_data(path, recipe.units, columns, needs.any)
    consistency = require_consistent(store, str(path))
    split = draw_split(store, recipe)
    notes = []
    if needs.network:
        split, note = with_bonds_known(store, split)
        notes = [note] if note else []
    for part, indices in (("training", split.train), ("validation", split.validation)):
        common.require_data(objective, store, indices, f"the {part} part of {path}")
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
    for note in [*notes, *lacking_bonds(needs, store, split)]:
        say(note)
    sizes = f"{len(split.train)} conformations to train on, {len(split.validation)} to validate on"
    say(f"{sizes}, {len(split.test)} to test on" if len(split.test) else sizes)
    return RunData(store, split, {"split": split.hash, "consistency": consistency.reason})


def _mixed_data(mixture: Mixture, say: Say) -> RunData:
    every = zip(mixture.sources, mixture.splits, mixture.probabilities, strict=True)
    for source, split, probability in every:
        say(source.read)
        say(f"{source.name}: units and signs: {source.consistency.verdict} ({source.consistency.reason})")
        sizes = f"{len(split.train)} conformations to train on, {len(split.validation)} to validate on"
        say(f"{source.name}: {sizes}; {probability:.1%} of the molecules of a step")
    for note in mixture.notes:
        say(note)
    record = {"split": mixture.split.hash, "sources": source_records(mixture)}
    return RunData(mixture.store, mixture.split, record, mixture)


def rehearse(model: Model, objective: Objective, data: RunData) -> None:
    """Compute the loss of a few molecules: what the data lacks (bonds, say) shows before anything is written."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for name, store, split in _each(data):
            few = store.gather(split.train[:N_REHEARSED])
            try:
                objective.sums(model, few, torch.Generator().manual_seed(0))
            except ValueError as error:
                raise ValueError(f"source {name}: {error}" if name else str(error)) from None
    model.train(was_training)


def _each(data: RunData) -> list[tuple[str, MoleculeStore, Split]]:
    """Return name, store and split of each source; one without a list has no name."""
    if data.mixture is None:
        return [("", data.store, data.split)]
    return [(s.name, s.store, split) for s, split in zip(data.mixture.sources, data.mixture.splits, strict=True)]


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
    say: Say = silent,
) -> FitResult:
    """Train a model in the run directory ``out`` and leave its best and its last weights there."""
    rehearse(model, objective, data)
    steps = objective if data.replay is None else WithReplay(objective, replay_objective(data.replay.config))
    store = data.store
    recipe = dataclasses.replace(recipe, model=backbone)
    require_same_plugin(recipe, out)
    common.check_directory(out, recipe, resume, fabric)
    if fabric.is_global_zero:
        common.write_directory(out, recipe)
        keep_plugin(recipe, out)
        data.split.save(out / SPLIT_FILE)
        replayed = {} if data.replay is None else {"replay": data.replay.record}
        common.write_data_record(out, store, {**data.record, **replayed})
    fabric.barrier()
    training, validate = _streams(recipe, objective, data, fabric)
    by_stability = isinstance(recipe, FinetuneRecipe) and recipe.select_by == METRIC
    if isinstance(recipe, FinetuneRecipe) and by_stability:
        validate = with_stability(validate, recipe.stability, store, data.split, fabric.device)
    result = fit(
        model,
        steps,
        training,
        recipe.training,
        out,
        validate=validate,
        save_best=common.best_model_saver(out, backbone, recipe, store),
        fabric=fabric,
        select_by=METRIC if by_stability else None,
        resume=resume and common.can_resume(out),
        on_progress=on_progress,
    )
    if fabric.is_global_zero:
        metadata = common.run_metadata(recipe, store, result.step, {"loss": result.best})
        save_model(model, out / common.LAST_FILE, backbone, metadata)
    return result


def _streams(recipe: Recipe, objective: Objective, data: RunData, fabric: Fabric) -> tuple[Stream, Validate]:
    """Return this process's share of the training data, and the validation."""
    if data.mixture is not None:
        mixed, validations = mixture_loaders(data.mixture, recipe.training, fabric)
        return mixed, mixture_validation(objective, validations, fabric)
    training, validation = common.loaders(data.store, data.split, recipe.training, fabric)
    stream: Stream = training
    if data.replay is not None:
        stream = with_replay(training, data.replay, recipe.training.seed, fabric)
    target = property_settings(recipe.objective)
    if target is not None:
        return stream, property_validation(target.label, validation)
    return stream, common.validation(objective, validation, fabric)
