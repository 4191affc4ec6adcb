"""Fit the scale of a property to the labels of the training set."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.models.heads.properties import PropertyHead, SpatialExtentReadout, spatial_extent
from basinet.models.heads.references import composition, fit_references
from basinet.structures.batch import Batch
from basinet.structures.molecule import N_ELEMENTS

Baseline = Literal["mean", "composition", "none"]
"""What is known before the network says anything: the mean label; one contribution per element, by least squares
without an intercept (so that a sum over atoms stays one); nothing."""
Spread = Literal["rms", "mad", "none"]
"""Size of what the baseline leaves: root mean square (for ``mean`` the standard deviation), mean absolute value (as
3D-EMGP has it), or the unit of the property."""

NOTHING_LEFT = 1e-10
"""Labels whose spread is smaller than this part of their size are one label, up to rounding."""


class LabelSample(NamedTuple):
    """Labels of a property and what they are fitted with."""

    values: Float[Tensor, " n_molecules"]
    """In the unit of the property in the package."""
    compositions: Float[Tensor, "n_molecules 100"]
    """Atoms of each element."""
    reach: Float[Tensor, " n_molecules"]
    """The raw number of the readout if each atom had one unit."""

    @classmethod
    def of(cls, head: PropertyHead, name: str, batch: Batch) -> "LabelSample":
        """Return the labels of the molecules of a batch that have them."""
        has = batch.flags[f"has_{name}"]
        return cls(batch.labels[name][has].double(), composition(batch)[has], _reach(head, batch)[has])

    @classmethod
    def join(cls, parts: "list[LabelSample]") -> "LabelSample":
        """Return several samples as one."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class ScaleFit(NamedTuple):
    """What a :class:`~basinet.models.heads.properties.PropertyScale` holds."""

    references: Float[Tensor, "100"]
    shift: float
    scale: float


def fit_scale(sample: LabelSample, baseline: Baseline, spread: Spread) -> ScaleFit:
    """Return baseline and scale of the labels.

    Raises:
        ValueError: there are no labels, or the baseline leaves nothing of them.
    """
    values, n = sample.values, len(sample.values)
    if n == 0:
        raise ValueError("no labels to fit a baseline to")
    references, shift = torch.zeros(N_ELEMENTS, dtype=torch.float64), 0.0
    match baseline:
        case "mean":
            shift = float(values.mean())
        case "composition":
            references = fit_references(sample.compositions, values).energies
        case "none":
            pass
    left = values - shift - sample.compositions @ references
    if spread == "none":
        return ScaleFit(references, shift, 1.0)
    size = float(left.abs().mean() if spread == "mad" else left.square().mean().sqrt())
    if size <= NOTHING_LEFT * float(values.abs().max()):
        raise ValueError(
            f"the {n} training labels (the first is {float(values[0]):g}) are all given by their {_WHAT[baseline]}: "
            "there is nothing left to learn; use more, and more different, molecules"
        )
    return ScaleFit(references, shift, size / float(sample.reach.square().mean().sqrt()))


_WHAT = {"mean": "mean", "composition": "sum over elements", "none": "being zero"}


def set_scale(head: PropertyHead, fit: ScaleFit) -> None:
    """Give a head what was fitted."""
    head.standard.references.copy_(fit.references)
    head.standard.shift.fill_(fit.shift)
    head.standard.scale.fill_(fit.scale)


def _reach(head: PropertyHead, batch: Batch) -> Float[Tensor, " n_molecules"]:
    """Return the sum of squared distances from the centre of mass (Å²) for a spatial extent, 1 for the others."""
    if isinstance(head.readout, SpatialExtentReadout):
        return spatial_extent(torch.ones_like(batch.positions[:, 0]), batch)
    return torch.ones(batch.n_molecules, dtype=torch.float64)
