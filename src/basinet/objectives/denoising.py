"""Learn from noise without labels: recover it, as a prediction of its own or as a force."""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.base import Perturbation, Perturbed, perturb
from basinet.objectives.base import Term
from basinet.objectives.supervised import ForceLoss, force_error
from basinet.structures.batch import Batch
from basinet.structures.geometry import project_out_rigid_motion
from basinet.units import BOLTZMANN

ROOM_TEMPERATURE = 298.15
"""K."""


class NoiseTerm(Term):
    """A term on noisy molecules.

    Args:
        perturbation: noise of the molecules.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation
        self.flags = perturbation.flags

    @abstractmethod
    def noise_loss(self, model: Model, batch: Batch, perturbed: Perturbed) -> Float[Tensor, "*n"]:
        """Return the losses of clean molecules and their noisy copies; they are summed."""

    def loss(self, model: Model, batch: Batch, generator: torch.Generator) -> Float[Tensor, "*n"]:
        """Return the losses of molecules with fresh noise."""
        return self.noise_loss(model, batch, perturb(self.perturbation, batch, generator))


class Denoising(NoiseTerm):
    r"""The squared error of the predicted noise, averaged over atoms and components.

    .. math:: L = \frac{1}{3N} \sum_i \big\| \hat t_i(\tilde r) - (t_i - \mu) / s \big\|^2

    :math:`t_i` is the way back to the clean position in Å and :math:`\mu, s` are the running statistics that the noise
    head keeps (Zaidi et al., ICLR 2023, section 2). Predicting zero gives a loss of 1. In training mode the statistics
    take in the batch first, as published; in evaluation mode they stay as they are.

    By Tweedie's formula the best prediction is proportional to the score of the noised data, and so to a force.

    Args:
        perturbation: noise of the molecules.
    """

    name = "denoising"
    per = "component"
    requires = frozenset({"noise"})

    def noise_loss(self, model: Model, batch: Batch, perturbed: Perturbed) -> Float[Tensor, "n_atoms 3"]:
        """Return the squared error of each component."""
        target = normalized_target(model, perturbed)
        predicted = model(perturbed.batch, ["noise"])["noise"]
        return (predicted - target).square()

    def idle(self, model: Model) -> None:
        """Take part in the sum over processes in :meth:`RunningNormalizer.update`, which waits for all of them."""
        if model.training:
            normalizer = model.noise_head().normalizer
            normalizer.update(normalizer.total.new_zeros(0, 3))


def normalized_target(model: Model, perturbed: Perturbed) -> Float[Tensor, "n_atoms 3"]:
    """Return the way back as the noise head is to predict it; in training its statistics take in the batch first."""
    displacement = perturbed.target * perturbed.scale[perturbed.batch.molecule][:, None]
    normalizer = model.noise_head().normalizer
    if model.training:
        normalizer.update(displacement)
    return normalizer(displacement)


class ForceDenoising(NoiseTerm):
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
        perturbation: noise of the molecules; its target must be a displacement over its scale, as all but the
            Riemannian one are.
        temperature: K.
        loss: of the forces.
    """

    name = "force_denoising"
    per = "atom"
    requires = frozenset({"forces"})

    def __init__(
        self, perturbation: Perturbation, temperature: float = ROOM_TEMPERATURE, loss: ForceLoss = "norm"
    ) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite (K), got {temperature}")
        super().__init__(perturbation)
        self.temperature = temperature
        self.force_loss: ForceLoss = loss

    def noise_loss(self, model: Model, batch: Batch, perturbed: Perturbed) -> Float[Tensor, " n_atoms"]:
        """Return the error of each atom."""
        stiffness = spring_constant(perturbed.scale, self.temperature)[batch.molecule][:, None]
        pull = stiffness * perturbed.scale[batch.molecule][:, None] * perturbed.target
        predicted = model(perturbed.batch, ["forces"])["forces"]
        return force_error(predicted - project_out_rigid_motion(pull, perturbed.batch), self.force_loss)


def spring_constant(sigma: Tensor, temperature: float) -> Tensor:
    """Return kT/σ², eV/Å²: the spring in which something at ``temperature`` (K) deviates by ``sigma`` (Å)."""
    return BOLTZMANN * temperature / sigma.square()
