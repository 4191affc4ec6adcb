"""Add isotropic Gaussian noise to every atom."""

import math

import torch

from basinet.noise.base import Perturbation, Perturbed
from basinet.structures.batch import Batch


class CoordinateNoise(Perturbation):
    r"""Isotropic Gaussian noise on every atom (Zaidi et al., ICLR 2023).

    .. math:: \tilde r_i = r_i + \sigma \epsilon_i, \qquad \epsilon_i \sim \mathcal N(0, I_3)

    ========================  =============================
    :math:`\tilde r_i`        ``perturbed.batch.positions``
    :math:`-\epsilon_i`       ``perturbed.target``
    :math:`\sigma`            ``sigma``, Å
    ========================  =============================

    As in the published code, the mean of the noise over a molecule is not removed: its rigid motion cannot be predicted
    and leaves a loss of about two over the number of atoms.
    """

    def __init__(self, sigma: float) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite (Å), got {sigma}")
        self.sigma = sigma

    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy."""
        x = batch.positions
        epsilon = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        noisy = batch.without_labels().replace(positions=x + self.sigma * epsilon)
        scale = x.new_full((batch.n_molecules,), self.sigma)
        return Perturbed(noisy, -epsilon, scale, None)
