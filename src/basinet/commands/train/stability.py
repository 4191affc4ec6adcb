"""Stability of short dynamics as a metric of validation."""

from collections.abc import Mapping

import numpy as np
import torch

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.md.potentials import model_potential
from basinet.md.stability import StabilityConfig, stability
from basinet.models.model import Model
from basinet.training.fit import Validate

METRIC = "stability"
"""Mean time for which replicas stayed whole, ps."""


def with_stability(
    validate: Validate, config: StabilityConfig, store: MoleculeStore, split: Split, device: torch.device
) -> Validate:
    """Return a validation that also runs short dynamics, from conformations spread over the validation set.

    It adds ``stability`` (ps; the most is the length of the dynamics), ``stability_whole`` (the part of the replicas
    that stayed whole to the end) and ``stability_seconds`` (what it cost).

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
        return {**metrics, METRIC: found.mean, "stability_whole": whole, "stability_seconds": found.seconds}

    return extended
