"""Read the names of heads and weights that version 0.1 wrote: energy heads and reference energies were apart."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from basinet.models.heads.property import ENERGY, POOLED_ENERGY, PropertyForm

ENERGY_FORMS = {"gated_energy": ENERGY, "invariant_energy": ENERGY, "pooled_energy": POOLED_ENERGY}
"""Energies by the kind that version 0.1 had for their heads."""
RENAMED = (
    (r"^heads\.energy\.(first|second)\.", r"heads.energy.readout.atoms.gated.\1."),
    (r"^heads\.noise\.(first|second)\.", r"heads.noise.atoms.\1."),
    (r"^references\.energies$", "heads.energy.standard.references"),
    (r"^references\.scale$", "heads.energy.standard.scale"),
)
POOLED = ((r"^heads\.energy\.(atomic|of_pool)\.", r"heads.energy.readout.\1."),)
PLAIN = ((r"^heads\.energy\.atomic\.", "heads.energy.readout.atoms.plain."),)


def current_heads(
    heads: Mapping[str, str], forms: Mapping[str, PropertyForm]
) -> tuple[dict[str, str], dict[str, PropertyForm]]:
    """Return kinds of heads and forms of properties with the energy among the latter."""
    old = ENERGY_FORMS.get(heads.get("energy", ""))
    if old is None:
        return dict(heads), dict(forms)
    return {name: kind for name, kind in heads.items() if name != "energy"}, {"energy": old, **forms}


def current_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under their current names; those that have them already stay as they are.

    Reference energies of a model without an energy are dropped.
    """
    rules = RENAMED + (POOLED if any(key.startswith("heads.energy.of_pool.") for key in weights) else PLAIN)
    has_energy = any(key.startswith("heads.energy.") for key in weights)
    found = {_renamed(key, rules): value for key, value in weights.items()}
    if "references.energies" not in weights:
        return found
    if not has_energy:
        return {key: value for key, value in found.items() if not key.startswith("heads.energy.")}
    shift = torch.zeros_like(weights["references.scale"]) if "references.scale" in weights else torch.zeros(())
    return found | {"heads.energy.standard.shift": shift.double()}


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for old, new in rules:
        key = re.sub(old, new, key)
    return key
