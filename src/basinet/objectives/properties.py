"""Learn a property of a molecule: one number by name, with its unit."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from basinet.config import NonNegative, Positive, settings
from basinet.models.heads.fit import Baseline, Spread
from basinet.models.heads.property import ReadoutKind, check_property_name
from basinet.models.model import Model
from basinet.noise.base import Perturbation
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise
from basinet.objectives.base import LabelTerm, Method
from basinet.objectives.noisy_nodes import NoisyNodes
from basinet.structures.batch import Batch
from basinet.units import property_factor, property_unit

PropertyLoss = Literal["mse", "l1", "smooth_l1"]
"""``mse``: square of the error; ``l1``: its size; ``smooth_l1``: half its square below 1, its size minus 1/2 above."""


class Property(LabelTerm):
    """The error of a property, averaged over the molecules that have a label.

    Args:
        label: name of the label, and of the property of the model.
        loss: of the error.
        unit: in which the error is taken (and squared); ``None``: in units of the fitted scale, so that labels are
            standardised.
    """

    name = "property"

    def __init__(self, label: str, loss: PropertyLoss = "mse", unit: str | None = None) -> None:
        check_property_name(label)
        if unit is not None:
            property_unit(unit)
        self.label = label
        self.error_loss: PropertyLoss = loss
        self.unit = unit
        self.requires = frozenset({label})
        self.labels = frozenset({label})

    def compare(self, model: Model, outputs: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the loss of each molecule."""
        error = (outputs[self.label] - batch.labels[self.label]) / self._unit_error(model)
        return property_error(error, self.error_loss)

    def _unit_error(self, model: Model) -> Tensor | float:
        """Return the error that counts as one, in the unit of the property."""
        head = model.property_head(self.label)
        if self.unit is None:
            return head.standard.scale
        if property_unit(self.unit) != head.form.unit:
            raise ValueError(
                f"the property {self.label!r} is in {head.form.unit}, and its error cannot be taken in {self.unit}; "
                "choose a unit of the same kind (loss_unit=...)"
            )
        return property_factor(self.unit)


def property_error(error: Float[Tensor, " n"], loss: PropertyLoss) -> Float[Tensor, " n"]:
    """Return the loss of each error."""
    match loss:
        case "mse":
            return error.square()
        case "l1":
            return error.abs()
        case "smooth_l1":
            return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=1.0)


@settings
class PropertyConfig(Method):
    """A property of the molecule, predicted from clean positions."""

    kind: Literal["property"] = "property"
    """Kind of objective."""
    label: str
    """Name of the label, and of the property in the model; its column in a file is units.property_key."""
    readout: ReadoutKind = "sum"
    """From atoms to molecule. sum, mean: of atomic scalars; pooled: a function of a sum (3D-EMGP); dipole: length of
    the moment of atomic charges and dipoles; spatial_extent: second moment of atomic charges."""
    baseline: Baseline = "mean"
    """Fitted to the training labels, and not learned. mean: their mean; composition: one number per element, which
    leaves a sum over atoms one; none: nothing (for dipole and spatial_extent)."""
    spread: Spread = "rms"
    """Scale of the network, fitted to what the baseline leaves: its root mean square, its mean absolute value (mad), or
    none: the unit of the property."""
    loss: PropertyLoss = "mse"
    """Loss of the error: its square, its size, or smooth_l1: its square below 1 and its size above."""
    loss_unit: str | None = None
    """Unit of the error in the loss: eV, meV, D, bohr^3 ...; null: the fitted scale (standardised labels)."""

    def build(self) -> Property:
        """Return the objective.

        Raises:
            ValueError: the name is taken, the unit is unknown, or a baseline would shift a length below zero.
        """
        if self.readout in ("dipole", "spatial_extent") and self.baseline != "none":
            raise ValueError(
                f"the readout {self.readout} is a moment of charges, to which nothing is added; got baseline="
                f"{self.baseline}, expected baseline=none"
            )
        return Property(self.label, self.loss, self.loss_unit)


@settings
class NoisyNodesConfig(Method):
    """A property learned from noisy molecules, and the noise recovered (Noisy Nodes, as released by Zaidi et al.)."""

    kind: Literal["noisy_nodes"] = "noisy_nodes"
    """Kind of objective."""
    labels: PropertyConfig
    """The property."""
    denoising: Positive = 0.1
    """Weight of the noise term."""
    sigma: Positive = 0.005
    """Standard deviation of the noise that is recovered, Å (published for QM9: 0.005)."""
    rotor_sigma: NonNegative = 0.0
    """Standard deviation by which each rotor is turned first, rad; 0: coordinate noise alone, as published for QM9 by
    Zaidi et al. and by Frad. Above 0 molecules need bonds."""

    def build(self) -> NoisyNodes:
        """Return the objective."""
        noise: Perturbation = CoordinateNoise(self.sigma)
        if self.rotor_sigma != 0:
            noise = HybridNoise(RotorNoise(self.rotor_sigma), CoordinateNoise(self.sigma))
        return NoisyNodes(self.labels.build(), noise, self.denoising)
