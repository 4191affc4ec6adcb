"""Objectives without labels: recover the noise, as a prediction of its own or as a force."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.base import Perturbation, Perturbed
from basinet.objectives.base import Objective
from basinet.objectives.combine import all_set, select_all_set
from basinet.objectives.supervised import ForceLoss, force_error
from basinet.structures.batch import Batch
from basinet.structures.geometry import project_out_rigid_motion
from basinet.units import BOLTZMANN


class Denoising(Objective):
    r"""The squared error of the predicted noise, averaged over atoms and components.

    .. math:: L = \frac{1}{3N} \sum_i \big\| \hat t_i(\tilde r) - (t_i - \mu) / s \big\|^2

    :math:`t_i` is the way back to the clean position in Å and :math:`\mu, s` are the running statistics that the noise
    head keeps (Zaidi et al., ICLR 2023, section 2). Predicting zero gives a loss of 1. In training mode the statistics
    take in the batch first, as published; in evaluation mode they stay as they are.

    By Tweedie's formula the best prediction is proportional to the score of the noised data, and so to a force.

    Args:
        perturbation: how molecules are noised.
    """

    requires = frozenset({"noise"})
    labels: frozenset[str] = frozenset()
    weights = {"denoising": 1.0}

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation
        self.flags: frozenset[str] = perturbation.flags

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that can be noised."""
        return all_set(batch, self.flags)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of components."""
        return {"denoising": 3.0 * select_all_set(batch, self.flags).n_atoms}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over atoms and components."""
        batch = select_all_set(batch, self.flags)
        perturbed = self.perturbation(batch, generator)
        target = normalized_target(model, perturbed)
        if batch.n_atoms == 0:
            return {"denoising": batch.positions.new_zeros(())}
        predicted = model(perturbed.batch, ["noise"])["noise"]
        return {"denoising": (predicted - target).square().sum()}


def normalized_target(model: Model, perturbed: Perturbed) -> Float[Tensor, "n_atoms 3"]:
    """Return the way back as the noise head is to predict it; in training its statistics take in the batch first."""
    displacement = perturbed.target * perturbed.scale[perturbed.batch.molecule][:, None]
    normalizer = model.noise_head().normalizer
    if model.training:
        normalizer.update(displacement)
    return normalizer(displacement)


class ForceDenoising(Objective):
    r"""The predicted force on a noisy molecule against the spring that pulls it back, averaged over atoms, eV/Å.

    .. math:: L = \frac1N \sum_i \big\| F_i(\tilde r) - P\,\kappa\,(r - \tilde r)_i \big\|, \qquad
              \kappa = \frac{k_B T}{\sigma^2}

    If molecules at temperature :math:`T` lay about their minima with deviation :math:`\sigma`, this would be their
    force: :math:`F = k_B T\,\nabla \log p`. The projection :math:`P` takes out net force and torque, which minus the
    gradient of an energy never has. That forces are denoised is published (ET-OREO, Feng et al., NeurIPS 2023); the
    scale, the projection and the norm are our choices.

    ================  ==========================================================================
    :math:`\sigma`    scale of the perturbation, Å
    :math:`\kappa`    eV/Å²; 16.06 at 0.04 Å and 298.15 K, less than bonds and more than torsions
    ================  ==========================================================================

    Args:
        perturbation: how molecules are noised; its target must be a displacement over its scale, as all but the
            Riemannian one are.
        temperature: K.
        loss: of the forces.
    """

    requires = frozenset({"forces"})
    labels: frozenset[str] = frozenset()
    weights = {"force_denoising": 1.0}

    def __init__(self, perturbation: Perturbation, temperature: float = 298.15, loss: ForceLoss = "norm") -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite (K), got {temperature}")
        self.perturbation = perturbation
        self.flags: frozenset[str] = perturbation.flags
        self.temperature = temperature
        self.loss: ForceLoss = loss

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that can be noised."""
        return all_set(batch, self.flags)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of atoms."""
        return {"force_denoising": float(select_all_set(batch, self.flags).n_atoms)}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over atoms."""
        batch = select_all_set(batch, self.flags)
        perturbed = self.perturbation(batch, generator)
        if batch.n_atoms == 0:
            return {"force_denoising": batch.positions.new_zeros(())}
        stiffness = spring_constant(perturbed.scale, self.temperature)[batch.molecule][:, None]
        pull = stiffness * perturbed.scale[batch.molecule][:, None] * perturbed.target
        predicted = model(perturbed.batch, ["forces"])["forces"]
        error = predicted - project_out_rigid_motion(pull, perturbed.batch)
        return {"force_denoising": force_error(error, self.loss).sum()}


def spring_constant(sigma: Tensor, temperature: float) -> Tensor:
    """Return kT/σ², eV/Å²: the spring in which something at ``temperature`` (K) deviates by ``sigma`` (Å)."""
    return BOLTZMANN * temperature / sigma.square()
