"""Pre-training: many molecules, one model."""

from pathlib import Path
from typing import NamedTuple

import torch

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.commands import common
from basinet.commands.recipe import PretrainRecipe
from basinet.commands.train.kernels import use_kernels
from basinet.commands.train.plugin import objective_of
from basinet.commands.train.run import OnProgress, RunData, Say, read_run_data, silent, train
from basinet.commands.train.sources import mixture_statistics
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split, random_split, split_by_smiles
from basinet.models.file import load_model, n_parameters
from basinet.models.model import Model, build_model, with_outputs
from basinet.training.fit import FitResult


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
    on_progress: OnProgress | None = None,
    say: Say = silent,
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
    speak = say if fabric.is_global_zero else silent
    objective = objective_of(recipe)
    data = read_run_data(recipe, objective, _split, speak)
    torch.manual_seed(recipe.training.seed)
    model, backbone = _model(recipe, objective.requires, data)
    speak(f"{n_parameters(model):,} parameters; loss: {' + '.join(f'{w:g} {k}' for k, w in objective.weights.items())}")
    use_kernels(model.backbone, recipe.launch, fabric.device, speak)
    how = {"resume": resume, "on_progress": on_progress, "say": speak}
    result = train(model, backbone, objective, data, recipe, out, fabric, **how)
    return PretrainResult(out / common.MODEL_FILE, result, fabric.is_global_zero)


def _split(store: MoleculeStore, recipe: PretrainRecipe) -> Split:
    """Hold out whole compounds where the data says which they are, and there are several."""
    if all(store.smiles) and len(set(store.smiles)) > 1:
        return split_by_smiles(store, recipe.validation_fraction, recipe.training.seed)
    n_validation = max(1, round(recipe.validation_fraction * len(store)))
    if n_validation >= len(store):
        raise ValueError(f"{recipe.data} has {len(store)} molecules; too few to keep some for validation")
    return random_split(len(store), validation=n_validation, test=0, seed=recipe.training.seed)


def _model(recipe: PretrainRecipe, requires: frozenset[str], data: RunData) -> tuple[Model, BackboneConfig]:
    if recipe.start is None:
        model = build_model(build_backbone(recipe.model), requires)
        common.start_from_statistics(model, _statistics(data, recipe.training.seed))
        backbone = recipe.model
    else:
        file = load_model(recipe.start)
        if file.model.has_pooled_energy and "forces" in requires and "pooled_energy" not in requires:
            raise ValueError(
                f"the objective learns forces in eV/Å, and the energy of {recipe.start} is that of "
                "3D-EMGP, which has no unit; use basinet finetune, which begins with a fresh energy head"
            )
        kept = file.model.with_heads(**dict.fromkeys(file.model.properties))  # they would be left behind
        model, backbone = with_outputs(kept, requires), file.backbone
        if "energy" not in kept.heads:
            common.start_from_statistics(model, _statistics(data, recipe.training.seed))
    model.scope = common.extended_scope(model.scope, data.store, sorted(data.store.elements))
    return model, backbone


def _statistics(data: RunData, seed: int) -> common.Statistics:
    if data.mixture is not None:
        return mixture_statistics(data.mixture, seed)
    return common.label_statistics(data.store, data.split.train, seed)
