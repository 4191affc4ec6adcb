"""Fine-tune a model on labelled molecules, or train one from scratch on them."""

import json
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lightning_fabric import Fabric

from basinet.backbones.base import with_kernels
from basinet.commands.answer.evaluate import errors_of, errors_of_property
from basinet.commands.progress import Say, silent
from basinet.commands.recipe import SCRATCH, FinetuneRecipe
from basinet.commands.run_directory import MODEL_FILE, RESULTS_FILE
from basinet.commands.statistics import batches
from basinet.commands.train.data import RunData, given_split
from basinet.commands.train.properties import property_record, start_property
from basinet.commands.train.replay import fit_scope
from basinet.commands.train.run import OnProgress, run
from basinet.commands.train.start import Start, freeze, start_energies
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split, random_split
from basinet.evaluation.metrics import Errors
from basinet.evaluation.properties import PropertyErrors
from basinet.files import write_text
from basinet.models.checkpoint import load_model
from basinet.objectives.base import Objective
from basinet.objectives.methods import property_settings
from basinet.training.fit import FitResult


class FinetuneResult(NamedTuple):
    """Result of a fine-tuning."""

    model: Path
    """The model of the best step."""
    fit: FitResult
    test: Errors | PropertyErrors | None
    """Errors of that model on the test set; ``None`` if there is none."""
    is_main: bool
    """This is the main process of the run."""
    before: Errors | PropertyErrors | None
    """Errors on the validation set before training (:class:`~basinet.commands.train.start.Start`)."""


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
        recipe: options of the run.
        out: run directory; a new one, or one to resume.
        resume: continue the run in ``out``, bit for bit.
        on_progress: called after each step.
        say: called with lines about what is being done.
    """
    how = {"resume": resume, "on_progress": on_progress, "say": say}
    done = run(recipe, out, partial(_split, recipe), partial(_start, recipe), **how)
    is_main = done.fabric.is_global_zero
    test = _test(recipe, out, done.data, done.fabric) if is_main else None
    return FinetuneResult(out / MODEL_FILE, done.fit, test, is_main, done.before)


def _split(recipe: FinetuneRecipe, store: MoleculeStore) -> Split:
    """Divide the data; a random division leaves single atoms out, which have no forces to learn."""
    if recipe.split is not None:
        return given_split(recipe.split, store, recipe.data)
    fewest = 2 if property_settings(recipe.objective) is None else 1
    several = np.flatnonzero(store.atoms_per_molecule >= fewest)
    n = len(several)
    tenth = max(1, n // 10)
    n_validation = tenth if recipe.n_validation is None else recipe.n_validation
    n_test = tenth if recipe.n_test is None and recipe.n_train is None else recipe.n_test
    n_train = n - n_validation - n_test if recipe.n_train is None and n_test is not None else recipe.n_train
    wanted = (n_train or 0) + n_validation + (n_test or 0)
    if wanted > n or n_train is None or n_train < 1 or n_validation < 1:
        of_what = " of more than one atom" if n < len(store) else ""
        raise ValueError(
            f"{recipe.data} has {n} molecules{of_what}; cannot take n_train={n_train}, n_validation={n_validation}, "
            f"n_test={n_test} from them (training and validation need at least one each)"
        )
    # All that could be trained on is drawn first and then cut: a larger n_train begins with a smaller one.
    drawn = random_split(n, validation=n_validation, test=n_test or 0, seed=recipe.split_seed)
    whole = Split(train=several[drawn.train], validation=several[drawn.validation], test=several[drawn.test])
    test = whole.train[n_train:] if n_test is None else whole.test
    return Split(train=whole.train[:n_train], validation=whole.validation, test=test)


def _start(recipe: FinetuneRecipe, objective: Objective, data: RunData, say: Say) -> Start:
    target = property_settings(recipe.objective)
    if target is None:
        start = start_energies(recipe, objective.requires, data.store, data.split, say)
    else:
        start = start_property(recipe, target, objective.requires, data.store, data.split, say)
    freeze(start.model, recipe.freeze, say)
    if data.replay is not None:
        say(str(data.replay))
        fit_scope(start.model, data.replay, is_fresh=recipe.start == SCRATCH)
    return start


def _test(recipe: FinetuneRecipe, out: Path, data: RunData, fabric: Fabric) -> Errors | PropertyErrors | None:
    """Test the best model and write its errors."""
    if not len(data.split.test):
        return None
    model = with_kernels(load_model(out / MODEL_FILE).model.to(fabric.device))
    test = batches(data.store, data.split.test)
    target = property_settings(recipe.objective)
    if target is None:
        errors = errors_of(model, test)
        record = {"n_test": errors.n_molecules, "units": "eV, eV/Angstrom", **_numbers(errors)}
    else:
        errors = errors_of_property(model, target.label, test)
        record = property_record(model, errors, data.store, data.split)
    record = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
    write_text(out / RESULTS_FILE, json.dumps(record, indent=2) + "\n")
    return errors


def _numbers(errors: Errors) -> dict[str, float]:
    """Return the errors that are single numbers."""
    names = ("energy_mae", "energy_rmse", "energy_mae_per_atom", "force_mae", "force_rmse", "force_cosine")
    return {name: getattr(errors, name) for name in names}
