"""Objectives without labels: recover the noise."""

import torch
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.base import Perturbation
from basinet.objectives.base import Objective
from basinet.structures.batch import Batch


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
        self.flags: frozenset[str] = frozenset()

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of components."""
        return {"denoising": 3.0 * batch.n_atoms}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over atoms and components."""
        perturbed = self.perturbation(batch, generator)
        displacement = perturbed.target * perturbed.scale[batch.molecule][:, None]
        normalizer = model.noise_head().normalizer
        if model.training:
            normalizer.update(displacement)
        if batch.n_atoms == 0:
            return {"denoising": batch.positions.new_zeros(())}
        predicted = model(perturbed.batch, ["noise"])["noise"]
        return {"denoising": (predicted - normalizer(displacement)).square().sum()}
