"""Average the outputs of several models, and measure their spread."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from basinet.backbones.base import Layout
from basinet.models.heads.property import PropertyHead
from basinet.models.model import Model
from basinet.models.scope import Scope
from basinet.structures.batch import Batch
from basinet.structures.layouts import neighbors_of

STD = "_std"
"""Suffix of the name of an output for its standard deviation over members."""


class Committee(nn.Module):
    r"""The mean of the outputs of models that were trained apart, and their standard deviation.

    .. math:: \bar x = \frac1K \sum_k x_k, \qquad s = \sqrt{\frac1{K-1} \sum_k \|x_k - \bar x\|^2}

    ``energy_std`` and that of properties are one number for each molecule. ``forces_std`` is one for each atom, eV/Å:
    with the length of the difference of two forces in the sum, it does not change when the molecule turns. Where the
    members agree they may still all be wrong; where they do not, some are.

    Args:
        members: at least two models of the same outputs at the same level of theory.
    """

    def __init__(self, members: Sequence[Model]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"a committee needs at least two models, got {len(members)}")
        _check_members(members)
        self.members = nn.ModuleList(members)
        self.offers = members[0].offers & {"energy", "forces", *members[0].properties}
        self.scope = _common_scope([m.scope for m in members])

    @property
    def models(self) -> list[Model]:
        """The members."""
        return [member for member in self.members if isinstance(member, Model)]

    @property
    def properties(self) -> dict[str, PropertyHead]:
        """The heads of properties of the first member, by name; those of the others have the same units."""
        return self.models[0].properties

    @property
    def has_pooled_energy(self) -> bool:
        """Always false: the energy of 3D-EMGP, which has no unit, is refused."""
        return False

    def forward(self, batch: Batch, outputs: Iterable[str], *, layout: Layout = neighbors_of) -> dict[str, Tensor]:
        """Return the mean of each requested output by name, and its deviation under that name with ``_std``."""
        wanted = frozenset(outputs)
        if missing := wanted - self.offers:
            raise ValueError(f"the committee offers {sorted(self.offers)}, asked for {sorted(missing)}")
        return mean_and_spread([member(batch, wanted, create_graph=False, layout=layout) for member in self.models])


def mean_and_spread(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each output of several models by name, and its deviation under that name with ``_std``."""
    result: dict[str, Tensor] = {}
    for name in found[0]:
        values = torch.stack([one[name].detach() for one in found])
        result[name] = values.mean(0)
        result[name + STD] = _deviation(values)
    return result


def _deviation(values: Float[Tensor, "n_members n *xyz"]) -> Float[Tensor, " n"]:
    squared = (values - values.mean(0)).square()
    return (squared.flatten(2).sum(2) if values.ndim > 2 else squared).sum(0).div(len(values) - 1).sqrt()


def _check_members(members: Sequence[Model]) -> None:
    first = members[0]
    for member in members:
        if member.has_pooled_energy:
            raise ValueError("a member was pre-trained by 3D-EMGP, and its energy is not in eV; fine-tune it first")
        if member.properties.keys() != first.properties.keys() or ("energy" in member.heads) != (
            "energy" in first.heads
        ):
            raise ValueError(
                f"the members of a committee must offer the same: one offers {sorted(first.offers)}, another "
                f"{sorted(member.offers)}"
            )
        if {n: h.form.unit for n, h in member.properties.items()} != {
            n: h.form.unit for n, h in first.properties.items()
        }:
            raise ValueError("the members of a committee have one property in different units")
        if member.scope.level_of_theory != first.scope.level_of_theory:
            raise ValueError(
                f"the members of a committee are of different levels of theory: {first.scope.level_of_theory!r} and "
                f"{member.scope.level_of_theory!r}; their spread would be that of the levels"
            )


def _common_scope(scopes: Sequence[Scope]) -> Scope:
    """Return what all members know."""
    elements = [s.elements for s in scopes if s.elements]
    charges = [s.charges for s in scopes if s.charges]
    sizes = [s.sizes for s in scopes if s.sizes is not None]
    return Scope(
        frozenset.intersection(*elements) if elements else frozenset(),
        scopes[0].level_of_theory,
        frozenset.intersection(*charges) if charges else frozenset(),
        (max(low for low, _ in sizes), min(high for _, high in sizes)) if sizes else None,
    )


class Answers(NamedTuple):
    """Predictions of an ensemble for molecules."""

    value: Float[Tensor, " n_molecules"]
    """Mean over members, float64."""
    deviation: Float[Tensor, " n_molecules"] | None
    """Standard deviation over members; ``None`` for one member."""


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
