"""Who computes what a network says of a batch, if not the network itself."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from basinet.backbones.base import NodeFeatures
from basinet.structures.batch import Batch

What = Literal["features", "forces", "energy_forces", "forces_features", "energy_forces_features"]
"""What is asked of a network: features of the backbone, energies, forces."""


class Said(NamedTuple):
    """What a network without corrections says, as far as it was asked."""

    energy: Float[Tensor, " n_molecules"] | None = None
    """eV, float64."""
    forces: Float[Tensor, "n_atoms 3"] | None = None
    """eV/Å."""
    features: NodeFeatures | None = None


class Evaluator(ABC):
    """Computes what the network of a model says, differentiable in its parameters and in nothing else."""

    @abstractmethod
    def evaluate(self, what: What, batch: Batch) -> Said:
        """Return what was asked for."""
