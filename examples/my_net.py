"""A backbone in one file: continuous-filter convolutions on distances, as in SchNet (Schütt et al., NeurIPS 2017).

basinet pretrain molecules plugin=my_net.py model.kind=my_net objective.kind=forces --out mine
basinet --plugin my_net.py predict mine/model.safetensors new.extxyz predicted.extxyz
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from basinet.backbones.base import Backbone, BackboneSettings, NodeFeatures
from basinet.config import Count, Positive, settings
from basinet.nn.radial import ExponentialNormalBasis, cosine_cutoff
from basinet.structures import Batch
from basinet.structures.neighbors import Neighbors


@settings
class MyNetConfig(BackboneSettings):
    """Size of the network."""

    kind: Literal["my_net"] = "my_net"
    """Name of the backbone."""
    n_features: Count = 64
    """Width of the features."""
    n_layers: Count = 3
    """Convolutions."""
    cutoff: Positive = 5.0
    """Radius of interaction, Å."""

    def build(self) -> "MyNet":
        """Return the network with random weights."""
        return MyNet(self)


class MyNet(Backbone):
    """Embedding of the elements, then convolutions; invariant, without vector features."""

    def __init__(self, config: MyNetConfig) -> None:
        super().__init__()
        self.cutoff, self.n_scalar, self.n_vector = config.cutoff, config.n_features, 0
        self.embedding = nn.Embedding(100, config.n_features)
        self.basis = ExponentialNormalBasis(32, config.cutoff)
        self.layers = nn.ModuleList(Convolution(config.n_features, 32) for _ in range(config.n_layers))

    def forward(self, batch: Batch, neighbors: Neighbors) -> NodeFeatures:
        """Return scalars [n_atoms, F] and no vectors."""
        basis = self.basis(neighbors.distances)  # [pairs, 32]
        fade = cosine_cutoff(neighbors.distances, self.basis.cutoff)[..., None]  # [pairs, 1], smooth at the cutoff
        scalar = self.embedding(batch.atomic_numbers)  # [N, F]
        for layer in self.layers:
            scalar = scalar + layer(scalar, basis, fade, neighbors)
        return NodeFeatures(scalar, scalar.new_zeros(len(scalar), 3, 0))

    def stages(self) -> Sequence[nn.Module]:
        """Return the embedding, then the layers."""
        return [self.embedding, *self.layers]


class Convolution(nn.Module):
    """Sum over neighbours of their features times a filter of the distance."""

    def __init__(self, n_features: int, n_basis: int) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(n_basis, n_features), nn.SiLU(), nn.Linear(n_features, n_features))
        self.update = nn.Sequential(nn.Linear(n_features, n_features), nn.SiLU(), nn.Linear(n_features, n_features))

    def forward(self, scalar: Tensor, basis: Tensor, fade: Tensor, neighbors: Neighbors) -> Tensor:
        """Return the change of the features."""
        filters = neighbors.to_edges(self.filter(basis) * fade, self_edges=False)  # [edges, F]
        return self.update(neighbors.weighted_sum(filters, scalar))  # [N, F]
