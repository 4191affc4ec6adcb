"""Validate a model during training: the loss on validation data, errors of what it learns, stability of dynamics."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from basinet.commands.answer.evaluate import errors_of, errors_of_property
from basinet.commands.launch import sum_over_processes
from basinet.commands.statistics import chunks
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.data.stream.splits import Split
from basinet.evaluation.metrics import Errors
from basinet.md.potentials import model_potential
from basinet.md.stability import StabilityConfig, stability
from basinet.models.model import Model
from basinet.objectives.base import Objective, mean_terms, total_loss
from basinet.training.fit import Validate

VALIDATION_SEED = 20220718
"""Seed of the noise in validation: the same every time, so that losses can be compared."""
STABILITY = "stability"
"""Name of the metric: mean time for which replicas stayed whole, ps."""


def validation(objective: Objective, loader: Loader, fabric: Fabric) -> Validate:
    """Return a function that gives the loss, its terms, and the errors of forces and energies.

    Several processes share the batches. The noise of a batch depends on its number alone, not on the processes.
    """
    device, rank, size = fabric.device, fabric.global_rank, fabric.world_size
    terms = list(objective.weights)

    def validate(model: Model) -> Mapping[str, float]:
        sums = dict.fromkeys(terms, 0.0)
        counts = dict.fromkeys(terms, 0.0)
        n_force_atoms = 0
        for number, batch in enumerate(b.to(device) for b in loader.epoch_batches(rank, size)):
            generator = torch.Generator(device).manual_seed(VALIDATION_SEED + rank + size * number)
            with torch.no_grad():
                for key, value in objective.sums(model, batch, generator).items():
                    sums[key] += float(value)
            for key, count in objective.counts(batch).items():
                counts[key] += count
            if "has_forces" in batch.flags:
                n_force_atoms += int(batch.flags["has_forces"][batch.molecule].sum())
        total = sum_over_processes([*sums.values(), *counts.values()], fabric)
        sums, counts = dict(zip(terms, total, strict=False)), dict(zip(terms, total[len(terms) :], strict=True))
        tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in sums.items()}
        metrics = {"loss": float(total_loss(objective, tensors, counts)), **mean_terms(sums, counts)}
        if "forces" in objective.labels and "forces" in loader.store.label_counts:
            errors = errors_of(model, loader.epoch_batches(rank, size))
            metrics |= _joined_errors(errors, n_force_atoms, fabric)
        return metrics

    return validate


def _joined_errors(errors: Errors, n_force_atoms: int, fabric: Fabric) -> dict[str, float]:
    """Return the mean errors over all processes."""
    parts = {"force_mae": (errors.force_mae, n_force_atoms), "energy_mae": (errors.energy_mae, errors.n_energies)}
    values = [value for mean, n in parts.values() for value in ((mean * n if n else 0.0), float(n))]
    total = sum_over_processes(values, fabric)
    sums, counts = total[::2], total[1::2]
    return {name: s / n for name, s, n in zip(parts, sums, counts, strict=True) if n}


def mixture_validation(objective: Objective, loaders: Mapping[str, Loader], fabric: Fabric) -> Validate:
    """Return a function that gives the metrics of each source (``forces/md17``), and the loss over all of them.

    Terms and the force error are averaged over all validation sets together. Energies of different sources may be of
    different levels of theory, so their error is given for each source only.
    """
    each = {name: validation(objective, loader, fabric) for name, loader in loaders.items()}
    counts = {name: _counts(objective, loader) for name, loader in loaders.items()}

    def validate(model: Any) -> Mapping[str, float]:
        found = {name: validate_one(model) for name, validate_one in each.items()}
        means: dict[str, float] = {}
        for term in (*objective.weights, "force_mae"):
            of = {name: counts[name][term] for name in found if term in found[name]}
            if of:
                means[term] = sum(n * found[name][term] for name, n in of.items()) / sum(of.values())
        loss = sum((objective.weights[term] * means[term] for term in objective.weights if term in means), start=0.0)
        by_source = {f"{key}/{name}": value for name, metrics in found.items() for key, value in metrics.items()}
        return {"loss": loss, **means, **by_source}

    return validate


def _counts(objective: Objective, loader: Loader) -> dict[str, float]:
    """Return how many things each term sums over in a validation set, and how many atoms have forces."""
    total: Counter[str] = Counter()
    for batch in chunks(loader.store, loader.indices):
        total.update(objective.counts(batch))
        if "has_forces" in batch.flags:
            total["force_mae"] += int(batch.flags["has_forces"][batch.molecule].sum())
    return {term: float(total[term]) for term in (*objective.weights, "force_mae")}


def property_validation(label: str, loader: Loader) -> Validate:
    """Return a function that gives the errors of a property.

    The loss is the MAE on clean molecules, as published; the training loss may contain noise.
    """

    def validate(model: Model) -> Mapping[str, float]:
        errors = errors_of_property(model, label, loader.epoch_batches())
        return {"loss": errors.mae, "mae": errors.mae, "rmse": errors.rmse}

    return validate


def with_stability(
    validate: Validate, config: StabilityConfig, store: MoleculeStore, split: Split, device: torch.device
) -> Validate:
    """Return a validation that also runs short dynamics, from conformations spread over the validation set.

    It adds ``stability`` (ps; at most the length of the dynamics), ``stability_whole`` (fraction of replicas that
    stayed whole to the end) and ``stability_seconds`` (time taken).

    Raises:
        ValueError: no molecule of the validation set has two atoms.
    """
    sizes = store.atoms_per_molecule[split.validation]
    moving = split.validation[sizes > 1]
    if not len(moving):
        raise ValueError("select_by=stability needs molecules of two atoms and more in the validation set")
    chosen = moving[np.linspace(0, len(moving) - 1, min(config.replicas, len(moving))).round().astype(int)]
    molecules = [store[int(i)] for i in chosen]

    def extended(model: Model) -> Mapping[str, float]:
        metrics = validate(model)
        found = stability(model_potential(model), molecules, config, device)
        whole = float((found.times >= config.picoseconds).double().mean())
        return {**metrics, STABILITY: found.mean, "stability_whole": whole, "stability_seconds": found.seconds}

    return extended
