"""Pre-train a model on many molecules."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from basinet.backbones.build import build_backbone
from basinet.commands.progress import Say, silent
from basinet.commands.recipe import PretrainRecipe
from basinet.commands.run_directory import MODEL_FILE
from basinet.commands.statistics import Statistics, label_statistics, start_from_statistics
from basinet.commands.train.data import RunData
from basinet.commands.train.mixture import mixture_statistics
from basinet.commands.train.run import OnProgress, run
from basinet.commands.train.start import Start, extended_scope
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split, random_split, split_by_smiles
from basinet.models.checkpoint import load_model
from basinet.models.model import build_model, with_outputs
from basinet.objectives.base import Objective
from basinet.training.fit import FitResult


class PretrainResult(NamedTuple):
    """Result of a pre-training."""

    model: Path
    """The model with the lowest validation loss."""
    fit: FitResult
    is_main: bool
    """This is the main process of the run."""


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
        recipe: options of the run.
        out: run directory; a new one, or one to resume.
        resume: continue the run in ``out``, bit for bit.
        on_progress: called after each step.
        say: called with lines about what is being done.
    """
    how = {"resume": resume, "on_progress": on_progress, "say": say}
    done = run(recipe, out, partial(_split, recipe), partial(_start, recipe), **how)
    return PretrainResult(out / MODEL_FILE, done.fit, done.fabric.is_global_zero)


def _split(recipe: PretrainRecipe, store: MoleculeStore) -> Split:
    """Hold out whole compounds where the data names several, else molecules."""
    if all(store.smiles) and len(set(store.smiles)) > 1:
        return split_by_smiles(store, recipe.validation_fraction, recipe.training.seed)
    n_validation = max(1, round(recipe.validation_fraction * len(store)))
    if n_validation >= len(store):
        raise ValueError(f"{recipe.data} has {len(store)} molecules; too few to keep some for validation")
    return random_split(len(store), validation=n_validation, test=0, seed=recipe.training.seed)


def _start(recipe: PretrainRecipe, objective: Objective, data: RunData, say: Say) -> Start:
    del say
    requires = objective.requires
    if recipe.start is None:
        backbone = recipe.model
        model = build_model(build_backbone(backbone), requires)
        is_fresh = True
    else:
        loaded, backbone, _ = load_model(recipe.start)
        if loaded.has_pooled_energy and "forces" in requires and "pooled_energy" not in requires:
            raise ValueError(
                f"the objective learns forces in eV/Å, and the energy of {recipe.start} is that of "
                "3D-EMGP, which has no unit; use basinet finetune, which begins with a fresh energy head"
            )
        kept = loaded.with_heads(**dict.fromkeys(loaded.properties))  # without heads that nothing trains
        model = with_outputs(kept, requires)
        is_fresh = "energy" not in kept.heads
    if is_fresh:
        start_from_statistics(model, _statistics(data, recipe.training.seed))
    model.scope = extended_scope(model.scope, data.store, sorted(data.store.elements))
    return Start(model, backbone)


def _statistics(data: RunData, seed: int) -> Statistics:
    if data.mixture is not None:
        return mixture_statistics(data.mixture, seed)
    return label_statistics(data.store, data.split.train, seed)
