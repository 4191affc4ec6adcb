"""Define heads, and the small networks they share."""

from abc import ABC
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from basinet.backbones.base import NodeFeatures
from basinet.nn.equivariant import GatedEquivariantBlock
from basinet.speed.products import Linear

HeadKind = Literal["noise", "noise_level", "pooled_noise_level", "distance_score"]
"""Kinds of heads other than properties, as a model file names them."""


class Head(nn.Module, ABC):
    """One prediction of a model, under the name it has in ``Model.heads``."""

    kind: ClassVar[HeadKind | Literal["property"]]


class GatedOutputs(nn.Module):
    """A scalar and a vector for each atom from two gated blocks (TorchMD-NET's equivariant outputs)."""

    def __init__(self, n_scalar: int, n_vector: int) -> None:
        super().__init__()
        self.first = GatedEquivariantBlock(n_scalar, n_scalar // 2, n_vector=n_vector, activate=True)
        self.second = GatedEquivariantBlock(n_scalar // 2, 1, activate=False)

    def forward(self, features: NodeFeatures) -> tuple[Float[Tensor, " n_atoms"], Float[Tensor, "n_atoms 3"]]:
        """Return the scalars and the vectors."""
        scalar, vector = self.second(*self.first(features.scalar, features.vector))
        return scalar[:, 0], vector[..., 0]


def two_layers(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Return two linear maps with SiLU between them."""
    return nn.Sequential(Linear(n_in, n_hidden), nn.SiLU(), Linear(n_hidden, n_out))
