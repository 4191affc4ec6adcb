"""Several models of one property: what they say on average, and how far they disagree."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from basinet.models.model import Model
from basinet.structures.batch import Batch


class Answers(NamedTuple):
    """What the members of an ensemble say about molecules."""

    value: Float[Tensor, " n_molecules"]
    """Mean over members, float64."""
    deviation: Float[Tensor, " n_molecules"] | None
    """Standard deviation over members; ``None`` if there is only one."""


def answers(
    members: Sequence[Model], batch: Batch, name: str, compound: Int64[Tensor, " n_conformers"], n_compounds: int
) -> Answers:
    """Return a property of compounds from their conformers: averaged over them, then over the members.

    Args:
        members: models in evaluation mode.
        batch: the conformers, on the device of the models.
        name: of the property.
        compound: the compound of each conformer.
        n_compounds: compounds; each has a conformer.
    """
    with torch.no_grad():
        found = torch.stack([member(batch, [name])[name].double().cpu() for member in members])
    return joined(found, compound, n_compounds)


def joined(
    values: Float[Tensor, "n_members n_conformers"], compound: Int64[Tensor, " n_conformers"], n_compounds: int
) -> Answers:
    """Return the mean over conformers and then members, and the deviation of the members (n - 1)."""
    of_members = mean_over_conformers(values, compound, n_compounds)
    mean = of_members.mean(0)
    if len(values) == 1:
        return Answers(mean, None)
    return Answers(mean, of_members.std(0) if n_compounds else mean)  # torch warns of the deviation of nothing


def mean_over_conformers(
    values: Float[Tensor, "n_rows n_conformers"], compound: Int64[Tensor, " n_conformers"], n_compounds: int
) -> Float[Tensor, "n_rows n_compounds"]:
    """Return the mean over the conformers of each compound."""
    count = torch.bincount(compound, minlength=n_compounds).to(values.dtype)
    return values.new_zeros((len(values), n_compounds)).index_add(1, compound, values) / count
