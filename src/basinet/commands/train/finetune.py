"""Fine-tuning: one model, your labels; and the same from scratch, to compare with."""

import json
import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.kernels import with_kernels
from basinet.commands import common
from basinet.commands.properties import SCRATCH, errors_of_property, property_record, start_property
from basinet.commands.recipe import FinetuneRecipe
from basinet.commands.train.kernels import use_kernels
from basinet.commands.train.plugin import objective_of
from basinet.commands.train.replay_data import fit_scope, read_replay
from basinet.commands.train.run import OnProgress, Say, read_run_data, silent, train
from basinet.commands.train.start_energies import set_reference_energies
from basinet.data.sources.fetch import saved_splits
from basinet.data.sources.names import locate
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.published_splits import PUBLISHED_SPLITS, published_split
from basinet.data.stream.splits import Split, random_split
from basinet.evaluation.metrics import Errors, to_unit
from basinet.evaluation.properties import PropertyErrors
from basinet.files import write_text
from basinet.models.file import load_model, n_parameters
from basinet.models.model import Model, build_model, with_outputs, without_pretraining_heads
from basinet.objectives.config import property_settings
from basinet.training.fit import FitResult

RESULTS_FILE = "results.json"


class FinetuneResult(NamedTuple):
    """What a fine-tuning left behind."""

    model: Path
    """The model with the lowest validation loss."""
    fit: FitResult
    test: Errors | PropertyErrors | None
    """Errors of that model on the test set; ``None`` if there is none."""
    is_main: bool
    """Whether this is the process that speaks for all of a run."""
    before: Errors | PropertyErrors | None
    """Errors of the loaded model on the validation set before training, references re-fitted; ``None`` from scratch,
    except of a property, which has a fitted baseline."""


def finetune(
    recipe: FinetuneRecipe,
    out: Path,
    *,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    say: Say = silent,
) -> FinetuneResult:
    """Fine-tune a model, or train one from scratch, and test the best step.

    Args:
        recipe: what to do.
        out: run directory; a new one, or one to resume.
        resume: go on with the run in ``out``, bit for bit.
        on_progress: called after each step.
        say: called with lines about what is being done.
    """
    fabric = common.launch(recipe.launch)
    speak = say if fabric.is_global_zero else silent
    objective = objective_of(recipe)
    data = read_run_data(recipe, objective, _split, speak)
    replay = None if recipe.replay is None else read_replay(recipe.replay)
    torch.manual_seed(recipe.training.seed)
    target = property_settings(recipe.objective)
    if target is None:
        model, backbone, before = _start(recipe, objective.requires, data.store, data.split, speak)
    else:
        start = recipe, target, objective.requires, data.store, data.split
        model, backbone, before = start_property(*start, speak)
        freeze(model, recipe.freeze, speak)
    if replay is not None:
        data = data._replace(replay=replay)
        speak(replay.describe())
        fit_scope(model, replay, is_fresh=recipe.start == SCRATCH)
    speak(f"{n_parameters(model):,} parameters, from {recipe.start}")
    use_kernels(model.backbone, recipe.launch, fabric.device, speak)
    how = {"resume": resume, "on_progress": on_progress, "say": speak}
    result = train(model, backbone, objective, data, recipe, out, fabric, **how)
    label = None if target is None else target.label
    test = _test(out, label, data.store, data.split, fabric) if fabric.is_global_zero else None
    return FinetuneResult(out / common.MODEL_FILE, result, test, fabric.is_global_zero, before)


def _split(store: MoleculeStore, recipe: FinetuneRecipe) -> Split:
    """Divide the data; a random division leaves single atoms out, which have no forces to learn."""
    if recipe.split is not None:
        return given_split(recipe.split, store, recipe.data)
    fewest = 2 if property_settings(recipe.objective) is None else 1
    several = np.flatnonzero(store.atoms_per_molecule >= fewest)
    n = len(several)
    of_what = " of more than one atom" if n < len(store) else ""
    tenth = max(1, n // 10)
    n_validation = tenth if recipe.n_validation is None else recipe.n_validation
    n_test = tenth if recipe.n_test is None and recipe.n_train is None else recipe.n_test
    n_train = n - n_validation - n_test if recipe.n_train is None and n_test is not None else recipe.n_train
    wanted = (n_train or 0) + n_validation + (n_test or 0)
    if wanted > n or n_train is None or n_train < 1 or n_validation < 1:
        raise ValueError(
            f"{recipe.data} has {n} molecules{of_what}; cannot take n_train={n_train}, n_validation={n_validation}, "
            f"n_test={n_test} from them (training and validation need at least one each)"
        )
    # All that could be trained on is drawn first and then cut: a larger n_train begins with a smaller one.
    drawn = random_split(n, validation=n_validation, test=n_test or 0, seed=recipe.split_seed)
    whole = Split(train=several[drawn.train], validation=several[drawn.validation], test=several[drawn.test])
    test = whole.train[n_train:] if n_test is None else whole.test
    return Split(train=whole.train[:n_train], validation=whole.validation, test=test)


def given_split(given: Path, store: MoleculeStore, data: Path) -> Split:
    """Return a split that came with the data, a published one by its name, or that of a file."""
    with_data = saved_splits(locate(data))
    if str(given) in with_data:
        return Split.load(with_data[str(given)])
    if str(given) in PUBLISHED_SPLITS:
        return published_split(str(given), len(store))
    if not given.exists():
        there = ", ".join((*with_data, *PUBLISHED_SPLITS))
        raise FileNotFoundError(f"split={given}: no such file, and no split of that name for {data}; by name: {there}")
    split = Split.load(given)
    largest = max((int(part.max()) for part in (split.train, split.validation, split.test) if len(part)), default=-1)
    if largest >= len(store):
        raise ValueError(f"{given} names molecule {largest}, but {data} has {len(store)} molecules")
    return split


def _start(
    recipe: FinetuneRecipe, requires: frozenset[str], store: MoleculeStore, split: Split, say: Say
) -> tuple[Model, BackboneConfig, Errors | None]:
    if recipe.start == SCRATCH:
        model = build_model(build_backbone(recipe.model), requires | {"energy"})
        _start_fresh(model, recipe, store, split, say)
        model.scope = common.extended_scope(model.scope, store, sorted(store.elements))
        return model, recipe.model, None
    file = load_model(Path(recipe.start))
    for batch in common.chunks(store, np.concatenate([split.train, split.validation, split.test])):
        file.model.scope.check(batch)
    model = without_pretraining_heads(file.model, requires | {"energy"})
    if "energy" not in model.heads:
        say("the pre-trained model has no energy in eV: fine-tuning begins with a fresh energy head")
        model = with_outputs(model, requires | {"energy"})
        _start_fresh(model, recipe, store, split, say)
    model = with_outputs(model, requires)
    if "noise" in requires and recipe.noise_statistics == "reset":
        model.reset_target_normalizer()
    before = _before_training(model, recipe, store, split, say)
    freeze(model, recipe.freeze, say)
    _compare_levels(model.scope.level_of_theory, store, say)
    model.scope = common.extended_scope(model.scope, store, [])
    return model, file.backbone, before


def _start_fresh(model: Model, recipe: FinetuneRecipe, store: MoleculeStore, split: Split, say: Say) -> None:
    """Give a fresh energy head the scale of the forces, and the reference energies that are wanted."""
    common.start_from_statistics(model, common.label_statistics(store, split.train, recipe.training.seed))
    if recipe.start == SCRATCH and recipe.references != "fit":
        say(f"reference energies {set_reference_energies(model, recipe, store, split.train)}")


def _before_training(model: Model, recipe: FinetuneRecipe, store: MoleculeStore, split: Split, say: Say) -> Errors:
    """Say how good the loaded model is as it comes and with its new reference energies; return the latter."""
    device = next(model.parameters()).device
    as_loaded = common.errors_of(model, common.batches(store, split.validation), device)
    say(f"before training, as loaded: {describe_errors(as_loaded)}")
    how = set_reference_energies(model, recipe, store, split.train)
    if not as_loaded.n_energies or recipe.references == "keep":
        return as_loaded
    then = common.errors_of(model, common.batches(store, split.validation), device)
    say(f"before training, reference energies {how}: {describe_errors(then)}")
    return then


def freeze(model: Model, what: int | Literal["backbone"], say: Say) -> None:
    """Keep the first layers of a network, with its embedding, or all of its backbone as they are.

    Raises:
        ValueError: there are not so many layers.
    """
    if what == 0:
        return
    stages = model.backbone.stages()
    n_layers = len(stages) - 1
    if isinstance(what, int) and what > n_layers:
        raise ValueError(
            f"freeze={what}, but the network has {n_layers} layers; freeze=backbone keeps all but the heads"
        )
    for part in [model.backbone] if what == "backbone" else stages[: what + 1]:
        part.requires_grad_(False)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept = "the backbone" if what == "backbone" else f"the embedding and {what} of {n_layers} layers"
    say(f"{kept} keep their weights; {trained:,} parameters are trained")


def _compare_levels(of_model: str, store: MoleculeStore, say: Say) -> None:
    """Say if labels are of another level of theory than the model's, or of none on record."""
    of_data = store.manifest.level_of_theory
    if not of_data:
        say("the data does not say its level of theory, so the model will not know it; give units.level_of_theory")
    elif of_model and of_model != of_data:
        say(f"level of theory: the model knows {of_model}, the data is of {of_data}; the new model is of the latter")


def describe_errors(errors: Errors | PropertyErrors) -> str:
    """Return the errors of energies and forces, or of a property, as a person reads them."""
    if isinstance(errors, PropertyErrors):
        return str(errors)
    parts: list[str] = []
    if errors.n_forces:
        kcal = to_unit(errors.force_mae, "kcal/mol")
        parts.append(f"force MAE {to_unit(errors.force_mae, 'meV'):.1f} meV/Å ({kcal:.3f} kcal/mol/Å)")
    if errors.n_energies:
        parts.append(
            f"energy MAE {to_unit(errors.energy_mae, 'meV'):.1f} meV "
            f"({to_unit(errors.energy_mae_per_atom, 'meV'):.2f} meV/atom)"
        )
    return ", ".join(parts) + f" over {errors.n_molecules} conformations" if parts else "no labels to compare with"


def _test(
    out: Path, label: str | None, store: MoleculeStore, split: Split, fabric: Fabric
) -> Errors | PropertyErrors | None:
    if not len(split.test):
        return None
    model = with_kernels(load_model(out / common.MODEL_FILE).model.to(fabric.device))
    if label is None:
        errors = common.errors_of(model, common.batches(store, split.test), fabric.device)
        record = {"n_test": errors.n_molecules, "units": "eV, eV/Angstrom", **numbers(errors)}
    else:
        errors = errors_of_property(model, label, common.batches(store, split.test))
        record = property_record(model, errors, store, split)
    record = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
    write_text(out / RESULTS_FILE, json.dumps(record, indent=2) + "\n")
    return errors


def numbers(errors: Errors) -> dict[str, float]:
    """Return the errors that are single numbers."""
    names = ("energy_mae", "energy_rmse", "energy_mae_per_atom", "force_mae", "force_rmse", "force_cosine")
    return {name: getattr(errors, name) for name in names}
