"""Define neighbours: one interface for backbones, two layouts behind it.

Small molecules are nearly fully connected within 5 Å, so padded dense blocks waste little and need no scatter; large
systems are not, so they use an edge list. A backbone is written once against :class:`Neighbors` and gives the same
energies, forces and parameter gradients in both layouts. Receiver ``i``, sender ``j``, ``vector = r_j - r_i``.

Every atom is its own neighbour too, at distance zero and with a zero unit vector (the Equivariant Transformer attends
to itself). The number of neighbours is not limited.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Float, Shaped
from torch import Tensor

if TYPE_CHECKING:
    from basinet.structures.sparse import SparseNeighbors


class Neighbors(ABC):
    """Interacting pairs of atoms, as broadcastable or gathered "edge" tensors.

    ``edges`` in the shapes below stands for the leading dimensions of a layout: ``n_edges`` in the sparse one,
    ``n_molecules n_max n_max`` in the dense one. An edge tensor is only ever combined with another one, or summed.
    """

    cutoff: float | None
    """Å; ``None`` connects all atoms of a molecule."""
    distances: Float[Tensor, "*pairs"]
    """Å, of each unordered pair once, then one zero: an atom and itself. Functions of the distance (filters) are
    evaluated here, at half the cost of the edges, and brought to the edges by :meth:`to_edges`."""

    @abstractmethod
    def of_receiver(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it receives on."""

    @abstractmethod
    def of_sender(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it sends on."""

    @abstractmethod
    def to_edges(
        self, x: Float[Tensor, "*pairs n_features"], *, self_edges: bool = True
    ) -> Float[Tensor, "*edges n_features"]:
        """Bring a quantity of unordered pairs to both directions; zero where atoms are not neighbours.

        Args:
            x: a function of :attr:`distances`.
            self_edges: ``False`` sets the edge of an atom to itself to zero.
        """

    @abstractmethod
    def of_blocks(self, x: Shaped[Tensor, "n_molecules n_max n_max"]) -> Shaped[Tensor, "*pairs"]:
        """Bring a symmetric quantity of all pairs of atoms (a hop distance) to :attr:`distances`; the last one is zero.

        Args:
            x: padded blocks, as :mod:`basinet.structures.blocks` makes them.
        """

    @abstractmethod
    def message_sum(self, messages: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms n_features"]:
        r"""Return :math:`\sum_j m_{ij}`; the messages must carry a factor from :meth:`to_edges`."""

    @abstractmethod
    def weighted_sum(
        self, weights: Float[Tensor, "*edges n_features"], values: Float[Tensor, "n_atoms *xyz n_features"]
    ) -> Float[Tensor, "n_atoms *xyz n_features"]:
        r"""Return :math:`\sum_j w_{ij} \odot x_j`; the weights must carry a factor from :meth:`to_edges`."""

    @abstractmethod
    def directed_sum(self, weights: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms 3 n_features"]:
        r"""Return :math:`\sum_j \hat r_{ij} \otimes w_{ij}`; the weights must carry a factor, as above."""

    @abstractmethod
    def as_list(self) -> "SparseNeighbors":
        """Return the same neighbours as a list."""
