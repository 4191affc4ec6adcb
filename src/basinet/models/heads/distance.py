"""Predict the score of noised distances."""

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.backbones.base import NodeFeatures
from basinet.models.heads.base import Head, two_layers
from basinet.structures.pairs import AtomPairs


class DistanceScoreHead(Head):
    r"""The score of a noised distance from the features of its two atoms, in units of the noise.

    .. math:: s_{ij} = \mathrm{MLP}_2\big(h_i + h_j,\; \mathrm{MLP}_1(\tilde d_{ij})\big)

    The head of SE(3)-DDM (Liu, Guo, Tang, ICLR 2023), symmetric in the two atoms.
    """

    kind = "distance_score"

    def __init__(self, n_scalar: int) -> None:
        super().__init__()
        self.of_distance = two_layers(1, n_scalar, 1)
        self.of_pair = two_layers(n_scalar + 1, n_scalar, 1)

    def forward(
        self, features: NodeFeatures, pairs: AtomPairs, distances: Float[Tensor, " n_pairs"]
    ) -> Float[Tensor, " n_pairs"]:
        """Return the scores, given noised distances in Å."""
        h = features.scalar
        pair = torch.cat([h[pairs.first] + h[pairs.second], self.of_distance(distances[:, None])], dim=-1)
        return self.of_pair(pair)[:, 0]
