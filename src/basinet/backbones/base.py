"""What a backbone is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from basinet.structures.batch import Batch
from basinet.structures.layouts import neighbors_of
from basinet.structures.neighbors import Neighbors

Layout = Callable[[Batch, float | None], Neighbors]
"""Makes the neighbours of a batch within a cutoff (Å)."""


class NodeFeatures(NamedTuple):
    """What a backbone says about each atom."""

    scalar: Float[Tensor, "n_atoms n_scalar"]
    """Unchanged when the molecule turns."""
    vector: Float[Tensor, "n_atoms 3 n_vector"]
    """Turns with the molecule; channel last. ``n_vector`` is 0 for an invariant backbone."""


class Backbone(nn.Module, ABC):
    """From a batch and its neighbours to features of each atom.

    A backbone takes its neighbours as an argument so that it is written once for both layouts and so that a caller may
    reuse them (a neighbour list in molecular dynamics). It knows nothing of energies, labels or noise: heads do. Its
    output for one molecule must not depend on the others in the batch.
    """

    cutoff: float | None
    """Å; the neighbours it must be given. ``None``: all atoms of the molecule."""
    n_scalar: int
    """Number of scalar features."""
    n_vector: int
    """Number of vector features."""

    @abstractmethod
    def forward(self, batch: Batch, neighbors: Neighbors) -> NodeFeatures:
        """Return features of every atom."""

    def lay_out(self, batch: Batch, layout: Layout = neighbors_of) -> Neighbors:
        """Return the neighbours it is to be given; by default in the layout that suits it and the batch."""
        return layout(batch, self.cutoff)

    @abstractmethod
    def stages(self) -> Sequence[nn.Module]:
        """Return what an atom passes in turn, each with its own weights: the embedding, then every layer.

        What comes after the last layer (a norm) belongs to none of them. Used to keep the first stages of a pre-trained
        network as they are.
        """
