"""Make the model that a fine-tuning starts from: its weights, heads, reference energies and frozen layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Int64

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.commands.answer.evaluate import describe_errors, errors_of
from basinet.commands.progress import Say
from basinet.commands.recipe import SCRATCH, FinetuneRecipe
from basinet.commands.statistics import batches, chunks, label_statistics, start_from_statistics
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.evaluation.metrics import Errors
from basinet.evaluation.properties import PropertyErrors
from basinet.models.checkpoint import load_model
from basinet.models.heads.fit import ReferenceFit, composition, fit_references
from basinet.models.model import Model, build_model, with_outputs, without_pretraining_heads
from basinet.models.scope import Scope


class Start(NamedTuple):
    """The model a run starts from."""

    model: Model
    backbone: BackboneConfig
    before: Errors | PropertyErrors | None = None
    """Errors on the validation set before training; ``None`` from scratch, except for a property, which has a fitted
    baseline."""


def start_energies(
    recipe: FinetuneRecipe, requires: frozenset[str], store: MoleculeStore, split: Split, say: Say
) -> Start:
    """Return a model of energies and forces, fresh or loaded, with reference energies for the data."""
    if recipe.start == SCRATCH:
        model = build_model(build_backbone(recipe.model), requires | {"energy"})
        _start_energy_head(model, recipe, store, split, say)
        model.scope = extended_scope(model.scope, store, sorted(store.elements))
        return Start(model, recipe.model)
    loaded, backbone = load_start(Path(recipe.start), store, split)
    model = without_pretraining_heads(loaded, requires | {"energy"})
    if "energy" not in model.heads:
        say("the pre-trained model has no energy in eV: fine-tuning begins with a fresh energy head")
        model = with_outputs(model, requires | {"energy"})
        _start_energy_head(model, recipe, store, split, say)
    model = with_outputs(model, requires)
    reset_noise(model, recipe, requires)
    before = _refer(model, recipe, store, split, say)
    _compare_levels(model.scope.level_of_theory, store, say)
    model.scope = extended_scope(model.scope, store, [])
    return Start(model, backbone, before)


def load_start(path: Path, store: MoleculeStore, split: Split) -> tuple[Model, BackboneConfig]:
    """Load a model and check that it knows the molecules of the data."""
    file = load_model(path)
    for batch in chunks(store, np.concatenate([split.train, split.validation, split.test])):
        file.model.scope.check(batch)
    return file.model, file.backbone


def reset_noise(model: Model, recipe: FinetuneRecipe, requires: frozenset[str]) -> None:
    """Forget the statistics of the noise in a loaded model, if the recipe says so."""
    if recipe.start != SCRATCH and "noise" in requires and recipe.noise_statistics == "reset":
        model.reset_target_normalizer()


def extended_scope(scope: Scope, store: MoleculeStore, elements: Sequence[int]) -> Scope:
    """Return the scope of a model trained on further data; labels without a level of theory leave it unknown."""
    level_of_theory = store.manifest.level_of_theory if store.label_counts else scope.level_of_theory
    extended = scope.extended(elements, store.charges, store.sizes)
    return extended._replace(level_of_theory=level_of_theory)


def freeze(model: Model, what: int | Literal["backbone"], say: Say) -> None:
    """Freeze the embedding and the first layers of a network, or all of its backbone.

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


def _start_energy_head(model: Model, recipe: FinetuneRecipe, store: MoleculeStore, split: Split, say: Say) -> None:
    """Give a fresh energy head the scale of the forces and, from scratch, the reference energies of the recipe."""
    start_from_statistics(model, label_statistics(store, split.train, recipe.training.seed))
    if recipe.start == SCRATCH and recipe.references != "fit":
        say(f"reference energies {set_reference_energies(model, recipe, store, split.train)}")


def _refer(model: Model, recipe: FinetuneRecipe, store: MoleculeStore, split: Split, say: Say) -> Errors:
    """Set the reference energies of a loaded model; report its errors before and return those after."""
    as_loaded = errors_of(model, batches(store, split.validation))
    say(f"before training, as loaded: {describe_errors(as_loaded)}")
    how = set_reference_energies(model, recipe, store, split.train)
    if not as_loaded.n_energies or recipe.references == "keep":
        return as_loaded
    then = errors_of(model, batches(store, split.validation))
    say(f"before training, reference energies {how}: {describe_errors(then)}")
    return then


def _compare_levels(of_model: str, store: MoleculeStore, say: Say) -> None:
    """Report labels of another level of theory than the model's, or of an unknown one."""
    of_data = store.manifest.level_of_theory
    if not of_data:
        say("the data does not say its level of theory, so the model will not know it; give units.level_of_theory")
    elif of_model and of_model != of_data:
        say(f"level of theory: {of_model} in the loaded model, {of_data} in the data and in the new model")


def set_reference_energies(
    model: Model, recipe: FinetuneRecipe, store: MoleculeStore, train: Int64[np.ndarray, " n"]
) -> str:
    """Give a model the reference energies the recipe asks for; return how, in words.

    Raises:
        ValueError: an element of the data has no energy of an isolated atom, or was not given one.
    """
    match recipe.references:
        case "keep":
            return "kept"
        case "fit":
            fitted = refit_references(model, store, train, recipe.reference_ridge)
            return (
                "not re-fitted, for there are no energies" if fitted is None else f"re-fitted{_describe_rank(fitted)}"
            )
        case "isolated" | dict():
            given = given_energies(recipe, store)
            for number, energy in given.items():
                model.energy_scale.references[number] = energy
            energies = ", ".join(f"{chemical_symbols[z]} {given[z]:.3f}" for z in sorted(given))
            return f"set to {energies} eV"


def given_energies(recipe: FinetuneRecipe, store: MoleculeStore) -> dict[int, float]:
    """Return the reference energies from the recipe or from isolated atoms in the data, eV by atomic number.

    Raises:
        ValueError: an element of the data is missing, or a name is not an element.
    """
    if isinstance(recipe.references, dict):
        found = _by_number(recipe.references)
        fix = "give it too (references='{H: ..., C: ...}', in eV)"
    else:
        found = isolated_atoms(store)
        fix = "add a frame with that atom alone and its energy, or use references=fit"
    missing = [chemical_symbols[z] for z in sorted(set(store.elements) - set(found))]
    if missing:
        raise ValueError(f"{recipe.data} has molecules with {', '.join(missing)} and no reference energy of it; {fix}")
    return found


def _by_number(energies: Mapping[str, float]) -> dict[int, float]:
    unknown = sorted(set(energies) - set(atomic_numbers))
    if unknown:
        raise ValueError(f"references: {', '.join(unknown)} is not an element; expected symbols such as H and Cl")
    return {atomic_numbers[symbol]: float(energy) for symbol, energy in energies.items()}


def isolated_atoms(store: MoleculeStore) -> dict[int, float]:
    """Return the energies, eV by atomic number, of the neutral isolated atoms in the data.

    Raises:
        ValueError: one element has two different energies.
    """
    found: dict[int, float] = {}
    for index in atoms_alone(store).tolist():
        atom = store[index]
        if atom.charge or "energy" not in atom.labels:
            continue
        number, energy = int(atom.atomic_numbers[0]), float(atom.labels["energy"])
        if abs(found.get(number, energy) - energy) > 1e-6:
            raise ValueError(
                f"isolated atoms of {chemical_symbols[number]} have the energies {found[number]} and {energy} eV; "
                "leave one of them in the data, or give the energies (references='{H: ..., C: ...}')"
            )
        found[number] = energy
    return found


def atoms_alone(store: MoleculeStore) -> Int64[np.ndarray, " n_found"]:
    """Return the molecules of one atom: they have a reference energy and nothing else to learn."""
    return np.flatnonzero(store.atoms_per_molecule == 1)


def refit_references(
    model: Model, store: MoleculeStore, indices: Int64[np.ndarray, " n"], ridge: float = 0.0
) -> ReferenceFit | None:
    """Add to the reference energies what best explains the residuals of a model; ``None`` without energies."""
    device = next(model.parameters()).device
    compositions: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []
    model.eval()
    for batch in (b.to(device) for b in batches(store, indices)):
        if "has_energy" not in batch.flags:
            return None
        has = batch.flags["has_energy"]
        with torch.no_grad():
            predicted = model(batch, ["energy"])["energy"]
        compositions.append(composition(batch)[has].cpu())
        residuals.append((batch.labels["energy"] - predicted)[has].cpu())
    if not sum(len(r) for r in residuals):
        return None
    fitted = fit_references(torch.cat(compositions), torch.cat(residuals), ridge)
    model.energy_scale.references += fitted.energies.to(device)
    return fitted


def _describe_rank(fitted: ReferenceFit) -> str:
    """Return a clause about reference energies that the data does not determine; empty if there are none."""
    if fitted.rank == fitted.n_elements:
        return ""
    return f" (the data determines {fitted.rank} of {fitted.n_elements} of them, their sums are right)"
