"""Find out which runs need bonds, and leave out molecules that have none."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from basinet.backbones.build import BackboneConfig
from basinet.commands.recipe import SCRATCH, TrainableRecipe
from basinet.commands.statistics import chunks
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.models.checkpoint import read_backbone
from basinet.objectives.base import Objective

BOND_FLAGS = frozenset({"has_bonds", "has_rotors"})
"""Flags that bonds perceived from coordinates can set."""


class BondNeeds(NamedTuple):
    """The parts of a run that need bonds."""

    network: bool
    """The network reads them: it can do nothing with a molecule without."""
    flags: frozenset[str]
    """Flags of :data:`BOND_FLAGS` that terms of the loss need; they skip molecules without."""

    @property
    def any(self) -> bool:
        """Whether bonds are worth perceiving."""
        return self.network or bool(self.flags)


def bond_needs(recipe: TrainableRecipe, objective: Objective) -> BondNeeds:
    """Return the parts of a run that need bonds."""
    return BondNeeds(backbone_of(recipe).needs_bonds, objective.flags & BOND_FLAGS)


def backbone_of(recipe: TrainableRecipe) -> BackboneConfig:
    """Return the settings of the network of a run: those of the recipe, or of the model it starts from."""
    if recipe.start is None or recipe.start == SCRATCH:
        return recipe.model
    return read_backbone(Path(recipe.start))


def with_bonds_known(store: MoleculeStore, split: Split) -> tuple[Split, str]:
    """Return a split without the molecules whose bonds are unknown, and a line about them; empty if there are none.

    Raises:
        ValueError: that leaves nothing to train on or to validate on.
    """
    parts = {name: _with_flag(store, getattr(split, name), "has_bonds") for name in ("train", "validation", "test")}
    known = Split(**parts)
    lacking = sum(len(getattr(split, name)) - len(part) for name, part in parts.items())
    if not lacking:
        return split, ""
    what = f"{lacking} of {len(split.train) + len(split.validation) + len(split.test)} conformations"
    if not (len(known.train) and len(known.validation)):
        raise ValueError(
            f"{what} have no bonds on record, which the network reads; let them be perceived (units.bonds=auto), "
            "read them from a format that has bonds (SDF, SMILES), or choose another network (model.kind=...)"
        )
    return known, f"{what} have no bonds, which the network reads; skipped"


def lacking_bonds(needs: BondNeeds, store: MoleculeStore, split: Split) -> list[str]:
    """Return how many molecules of the split lack bonds that terms of the loss need, one line for each flag."""
    drawn = np.concatenate([split.train, split.validation])
    lines: list[str] = []
    for flag in sorted(needs.flags):
        lacking = len(drawn) - len(_with_flag(store, drawn, flag))
        if lacking:
            what = "bonds" if flag == "has_bonds" else "bonds with bond orders"
            lines.append(f"{lacking} of {len(drawn)} conformations have no {what}; terms that need them skip them")
    return lines


def _with_flag(
    store: MoleculeStore, indices: Int64[np.ndarray, " n_chosen"], flag: str
) -> Int64[np.ndarray, " n_flagged"]:
    chosen = [batch.all_set([flag]).numpy() for batch in chunks(store, indices)]
    return indices[np.concatenate(chosen)] if chosen else indices
