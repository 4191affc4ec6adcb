"""Predict the level of the noise between a clean and a noisy molecule."""

from abc import ABC

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.backbones.base import NodeFeatures
from basinet.models.heads.base import Head, two_layers
from basinet.noise.ladder import N_LEVELS
from basinet.structures.batch import Batch
from basinet.structures.segment import sum_per_molecule


class NoiseLevelHead(Head, ABC):
    r"""The level of a noise ladder that lies between a clean and a noisy molecule, from the pooled features of both.

    .. math:: p = \mathrm{softmax}\,\mathrm{MLP}(g, \tilde g)

    3D-EMGP (Jiao et al., AAAI 2023). The two kinds differ in where the features are pooled.
    """

    def __init__(self, n_pooled: int) -> None:
        super().__init__()
        self.levels = two_layers(2 * n_pooled, n_pooled, N_LEVELS)

    def forward(
        self, clean: Float[Tensor, "n_molecules n_pooled"], noisy: Float[Tensor, "n_molecules n_pooled"]
    ) -> Float[Tensor, "n_molecules n_levels"]:
        """Return the logits of the levels, from the pooled features of the clean and of the noisy molecule."""
        return self.levels(torch.cat([clean, noisy], dim=-1))


class SharedNoiseLevelHead(NoiseLevelHead):
    """Reads the pool of the pooled energy of 3D-EMGP, which the model must have: the published form."""

    kind = "noise_level"


class PooledNoiseLevelHead(NoiseLevelHead):
    """Has a pool of its own, and so works beside an energy in eV or no energy."""

    kind = "pooled_noise_level"

    def __init__(self, n_scalar: int) -> None:
        super().__init__(n_scalar)
        self.atomic = two_layers(n_scalar, n_scalar, n_scalar)

    def pool(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, "n_molecules n_scalar"]:
        """Return the features of each molecule: the sum over atoms of two layers."""
        return sum_per_molecule(self.atomic(features.scalar), batch)
