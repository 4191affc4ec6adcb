"""Learn a property of a molecule: one number by name, with its unit."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from basinet.config import settings
from basinet.models.heads.fit import Baseline, Spread
from basinet.models.heads.property import ReadoutKind, check_property_name
from basinet.models.model import Model
from basinet.noise.base import Perturbation
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise
from basinet.objectives.base import LabelObjective, Objective
from basinet.objectives.combine import is_set, select_where
from basinet.objectives.noisy_nodes import NoisyNodes
from basinet.structures.batch import Batch
from basinet.units import property_factor, property_unit

PropertyLoss = Literal["mse", "l1", "smooth_l1"]
"""``mse``: square of the error; ``l1``: its size; ``smooth_l1``: half its square below 1, its size minus 1/2 above."""


class Property(LabelObjective):
    """The error of a property, averaged over the molecules that have a label.

    Args:
        label: name of the label, and of the property of the model.
        loss: of the error.
        unit: in which the error is taken (and squared); ``None``: in units of the fitted scale, so that labels are
            standardised.
    """

    flags: frozenset[str] = frozenset()
    weights = {"property": 1.0}

    def __init__(self, label: str, loss: PropertyLoss = "mse", unit: str | None = None) -> None:
        check_property_name(label)
        self.label = label
        self.loss: PropertyLoss = loss
        self.unit = unit
        self.requires = frozenset({label})
        self.labels = frozenset({label})

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules with the label."""
        return is_set(batch, f"has_{self.label}")

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of molecules with the label."""
        return {"property": float(self.uses(batch).sum())}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over molecules."""
        labelled = select_where(batch, f"has_{self.label}")
        if labelled.n_molecules == 0:
            return {"property": batch.positions.new_zeros(())}
        return self.compare(model, model(labelled, [self.label]), labelled)

    def compare(self, model: Model, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the sum over molecules, all of which have the label."""
        error = (outputs[self.label] - batch.labels[self.label]) / self._one(model)
        return {"property": property_error(error, self.loss).sum().to(batch.positions.dtype)}

    def _one(self, model: Model) -> Tensor | float:
        """Return what an error of one is, in the unit of the property."""
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
class PropertyConfig:
    """A property of the molecule, predicted from clean positions."""

    kind: Literal["property"] = "property"
    """Which objective."""
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
    """Of the error: its square, its size, or smooth_l1: its square below 1 and its size above."""
    loss_unit: str | None = None
    """Unit of the error in the loss: eV, meV, D, bohr^3 ...; null: the fitted scale (standardised labels)."""

    def __post_init__(self) -> None:
        """Refuse names that are taken, units nobody knows, and lengths that would be shifted below zero."""
        check_property_name(self.label)
        if self.loss_unit is not None:
            property_unit(self.loss_unit)
        if self.readout in ("dipole", "spatial_extent") and self.baseline != "none":
            raise ValueError(
                f"the readout {self.readout} is a moment of charges, to which nothing is added; got baseline="
                f"{self.baseline}, expected baseline=none"
            )


@settings
class NoisyNodesConfig:
    """A property learned from noisy molecules, and the noise recovered (Noisy Nodes, as released by Zaidi et al.)."""

    kind: Literal["noisy_nodes"] = "noisy_nodes"
    """Which objective."""
    labels: PropertyConfig
    """The property."""
    denoising: float = 0.1
    """Weight of the noise term."""
    sigma: float = 0.005
    """Standard deviation of the noise that is recovered, Å (published for QM9: 0.005)."""
    rotor_sigma: float = 0.0
    """Standard deviation by which each rotor is turned first, rad; 0: coordinate noise alone, as published for QM9 by
    Zaidi et al. and by Frad. Above 0 molecules need bonds."""

    def __post_init__(self) -> None:
        """Refuse weights and noise that are not positive or cannot be meant."""
        for name in ("denoising", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.rotor_sigma != 0:
            RotorNoise(self.rotor_sigma)


def build_property(config: PropertyConfig) -> Property:
    """Return the objective that the settings describe."""
    return Property(config.label, config.loss, config.loss_unit)


def build_noisy_nodes(config: NoisyNodesConfig) -> Objective:
    """Return the objective that the settings describe."""
    noise: Perturbation = CoordinateNoise(config.sigma)
    if config.rotor_sigma > 0:
        noise = HybridNoise(RotorNoise(config.rotor_sigma), CoordinateNoise(config.sigma))
    return NoisyNodes(build_property(config.labels), noise, config.denoising)
