"""Look through the data of a run: labels it has, molecules the loss uses, reference energies and force scale."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.models.heads.fit import ReferenceFit, composition, fit_references
from basinet.models.model import Model
from basinet.objectives.base import Objective
from basinet.structures.batch import Batch

REFERENCE_SAMPLE = 100_000
"""Molecules used to fit reference energies and scales; more do not change them."""
MODEL_BATCH = 64
"""Molecules in a batch of validation or evaluation."""
CHUNK = 4096
"""Molecules in a batch of statistics."""
FLAG_TEXTS = {"has_rotors": "bonds and bond orders (units.bonds=auto perceives them from coordinates)"}
"""Names of flags in the error about data without them."""


def chunks(store: MoleculeStore, indices: Int64[np.ndarray, " n_chosen"], size: int = CHUNK) -> Iterator[Batch]:
    """Yield the chosen molecules in batches for statistics."""
    for first in range(0, len(indices), size):
        yield store.gather(indices[first : first + size])


def batches(store: MoleculeStore, indices: Int64[np.ndarray, " n_chosen"]) -> Iterator[Batch]:
    """Yield the chosen molecules in batches for a model."""
    return chunks(store, indices, MODEL_BATCH)


def sample(indices: Int64[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " _"]:
    """Return the indices, or :data:`REFERENCE_SAMPLE` of them drawn at random."""
    if len(indices) <= REFERENCE_SAMPLE:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, REFERENCE_SAMPLE, replace=False))


def require_data(objective: Objective, store: MoleculeStore, split: Split, data: str) -> None:
    """Raise a ``ValueError`` if no molecule of a part has a label or flag that a term of the loss needs."""
    _require(objective, store, split.train, f"the training part of {data}")
    _require(objective, store, split.validation, f"the validation part of {data}")


def _require(objective: Objective, store: MoleculeStore, indices: Int64[np.ndarray, " n"], what: str) -> None:
    wanted = {f"has_{label}": f"the label {label!r}" for label in sorted(objective.labels)}
    wanted |= {flag: FLAG_TEXTS.get(flag, f"the flag {flag!r}") for flag in sorted(objective.flags)}
    for batch in chunks(store, indices):
        wanted = {flag: text for flag, text in wanted.items() if flag not in batch.flags or not batch.flags[flag].any()}
        if not wanted:
            return
    if wanted:
        raise ValueError(
            f"the loss needs molecules with {' and '.join(wanted.values())}, and {what} has none; labels there are "
            f"{store.label_counts or 'none'}. Choose another objective (objective.kind=...) or data that has them"
        )


def used_split(objective: Objective, store: MoleculeStore, split: Split) -> tuple[Split, int]:
    """Return the split without molecules that no term of the loss uses, test aside, and their number."""
    used = Split(
        train=used_by(objective, store, split.train),
        validation=used_by(objective, store, split.validation),
        test=split.test,
    )
    return used, len(split.train) + len(split.validation) - len(used.train) - len(used.validation)


def used_by(
    objective: Objective, store: MoleculeStore, indices: Int64[np.ndarray, " n_chosen"]
) -> Int64[np.ndarray, " n_used"]:
    """Return the chosen molecules that some term of the loss uses: the others would only thin out the batches."""
    used = indices[np.concatenate([objective.uses(batch).numpy() for batch in chunks(store, indices)])]
    if len(used) == 0:
        raise ValueError(
            f"none of {len(indices)} conformations has all that a term of the loss ({', '.join(objective.weights)}) "
            "needs at once; choose another objective (objective.kind=...) or data that has it"
        )
    return used


class Statistics(NamedTuple):
    """Fit to the training labels before training."""

    references: ReferenceFit | None
    """``None`` if no molecule has an energy."""
    force_rms: float | None
    """eV/Å per component; ``None`` if no molecule has forces."""


def label_statistics(store: MoleculeStore, indices: Int64[np.ndarray, " n"], seed: int) -> Statistics:
    """Fit reference energies and the size of the forces, to a sample of large data."""
    compositions: list[Tensor] = []
    energies: list[Tensor] = []
    squares, count = 0.0, 0
    for batch in chunks(store, sample(indices, seed)):
        if "has_energy" in batch.flags:
            has = batch.flags["has_energy"]
            compositions.append(composition(batch)[has])
            energies.append(batch.labels["energy"][has])
        if "has_forces" in batch.flags:
            forces = batch.labels["forces"][batch.flags["has_forces"][batch.molecule]].double()
            squares, count = squares + float(forces.square().sum()), count + forces.numel()
    has_energies = sum(len(e) for e in energies) > 0
    references = fit_references(torch.cat(compositions), torch.cat(energies)) if has_energies else None
    return Statistics(references, (squares / count) ** 0.5 if count else None)


def start_from_statistics(model: Model, statistics: Statistics) -> None:
    """Set the reference energies and the force scale of a fresh energy head, if there is one."""
    if "energy" not in model.heads:
        return
    if statistics.references is not None:
        model.energy_scale.references.copy_(statistics.references.energies)
    if statistics.force_rms:
        model.energy_scale.scale.fill_(statistics.force_rms)
