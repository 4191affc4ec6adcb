"""Reference energies a fine-tuning starts with, and which of its molecules are atoms that only tell these energies."""

from collections.abc import Mapping

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Int64

from basinet.commands import common
from basinet.commands.recipe import FinetuneRecipe
from basinet.data.store.store import MoleculeStore
from basinet.models.heads.fit import ReferenceFit, composition, fit_references
from basinet.models.model import Model


def set_reference_energies(
    model: Model, recipe: FinetuneRecipe, store: MoleculeStore, train: Int64[np.ndarray, " n"]
) -> str:
    """Give a loaded model the reference energies the recipe asks for; return how, in words.

    Raises:
        ValueError: an element of the data has no energy of an isolated atom, or was not given one.
    """
    match recipe.references:
        case "keep":
            return "kept"
        case "fit":
            fitted = refit_references(model, store, train, recipe.reference_ridge)
            return "not re-fitted, for there are no energies" if fitted is None else f"re-fitted{describe_rank(fitted)}"
        case "isolated" | dict():
            given = given_energies(recipe, store)
            for number, energy in given.items():
                model.energy_scale.references[number] = energy
            return f"set to {describe_energies(given)}"


def given_energies(recipe: FinetuneRecipe, store: MoleculeStore) -> dict[int, float]:
    """Return the reference energies that a recipe or isolated atoms in the data give, eV by atomic number.

    Raises:
        ValueError: an element of the data is missing, or a name is no element.
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


def isolated_atoms(store: MoleculeStore) -> dict[int, float]:
    """Return the energies, eV by atomic number, of the neutral atoms that stand alone in the data.

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
    """Return the molecules of one atom: nothing can be learned from them but its reference energy."""
    return np.flatnonzero(store.atoms_per_molecule == 1)


def refit_references(
    model: Model, store: MoleculeStore, indices: Int64[np.ndarray, " n"], ridge: float = 0.0
) -> ReferenceFit | None:
    """Add to the reference energies what best explains the residuals of a model; ``None`` without energies."""
    device = next(model.parameters()).device
    compositions: list[torch.Tensor] = []
    residuals: list[torch.Tensor] = []
    model.eval()
    for batch in (b.to(device) for b in common.batches(store, indices)):
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


def describe_rank(fitted: ReferenceFit) -> str:
    """Return a clause about what the data leaves open; empty if nothing."""
    if fitted.rank == fitted.n_elements:
        return ""
    return f" (the data determines {fitted.rank} of {fitted.n_elements} of them, their sums are right)"


def describe_energies(energies: Mapping[int, float]) -> str:
    """Return reference energies as a person reads them."""
    return ", ".join(f"{chemical_symbols[z]} {energies[z]:.3f}" for z in sorted(energies)) + " eV"


def _by_number(energies: Mapping[str, float]) -> dict[int, float]:
    unknown = sorted(set(energies) - set(atomic_numbers))
    if unknown:
        raise ValueError(f"references: {', '.join(unknown)} is no element; expected symbols such as H and Cl")
    return {atomic_numbers[symbol]: float(energy) for symbol, energy in energies.items()}
