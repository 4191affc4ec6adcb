"""The E(n)-equivariant graph network (Satorras et al., ICML 2021) in the form of 3D-EMGP, and variants."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from basinet.backbones.base import Backbone, BackboneSettings, NodeFeatures
from basinet.config import Count, Positive, settings
from basinet.nn.modules import xavier
from basinet.nn.radial import cosine_cutoff
from basinet.nn.silu import silu
from basinet.speed.products import linear
from basinet.structures.batch import Batch
from basinet.structures.blocks import hop_blocks
from basinet.structures.molecule import N_ELEMENTS
from basinet.structures.neighbors import Neighbors

N_POWERS = 3
"""Columns for each element: 1, Z/100 and its square, as published."""
COORDINATE_GAIN = 0.001
"""Gain of the initialisation of the map that moves atoms, as published: they hardly move at first."""


@settings
class BondGraph:
    """All pairs of atoms of a molecule, classified by the number of bonds between them (3D-EMGP); needs bonds."""

    kind: Literal["bonds"] = "bonds"
    """Name of the graph."""
    max_hops: Annotated[int, Ge(0)] = 3
    """Largest number of bonds with a class of its own; larger numbers and unconnected atoms share one more class."""


@settings
class RadiusGraph:
    """Atoms within a radius; messages fade to zero at the radius, so that forces are smooth."""

    kind: Literal["radius"] = "radius"
    """Name of the graph."""
    cutoff: Positive = 5.0
    """Radius, Å."""


@settings
class EGNNConfig(BackboneSettings):
    """Size and variant of the EGNN; the defaults are those of 3D-EMGP."""

    kind: Literal["egnn"] = "egnn"
    """Name of the backbone."""
    n_features: Count = 128
    """Width of the scalar features."""
    n_layers: Count = 7
    """Message-passing layers."""
    graph: Annotated[BondGraph | RadiusGraph, Field(discriminator="kind")] = BondGraph()
    """Pairs of atoms that exchange messages."""
    coordinates: Literal["fixed", "moved"] = "fixed"
    """fixed: messages see the distances in the molecule, and the network is invariant (3D-EMGP); moved: every layer
    moves the atoms, messages see the moved distances, and how far each atom went is a vector feature (Satorras)."""

    @property
    def needs_bonds(self) -> bool:
        """True if the graph is made of bonds."""
        return isinstance(self.graph, BondGraph)

    def build(self) -> "EGNN":
        """Return the network with random weights."""
        return EGNN(self)


class EGNN(Backbone):
    r"""Messages between atoms from their features, the squared distance, and the number of bonds between them.

    =================  ===================================================================
    :math:`h_i`        ``state.scalar`` [N, F]
    :math:`x_i`        ``graph.positions + state.displacement`` [N, 3], Å
    :math:`a_{ij}`     ``graph.codes`` [edges, n_codes], one-hot
    :math:`f_{ij}`     ``graph.fade`` [edges, 1], 1 or the smooth cutoff; 0 from an atom to itself
    =================  ===================================================================

    With fixed coordinates only distances enter: the network cannot tell a molecule from its mirror image.
    """

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.graph.cutoff if isinstance(config.graph, RadiusGraph) else None
        self.needs_bonds = config.needs_bonds
        self.n_scalar = config.n_features
        self.n_vector = 1 if config.coordinates == "moved" else 0
        self.embedding = xavier(N_ELEMENTS * N_POWERS, config.n_features)
        n_codes = config.graph.max_hops + 1 if isinstance(config.graph, BondGraph) else 0
        layer = MovingLayer if config.coordinates == "moved" else InvariantLayer
        self.layers = nn.ModuleList(layer(config.n_features, 1 + n_codes) for _ in range(config.n_layers))

    def forward(self, batch: Batch, neighbors: Neighbors) -> NodeFeatures:
        """Return scalars [n_atoms, F] and vectors [n_atoms, 3, 1], or [n_atoms, 3, 0] with fixed coordinates."""
        scalar = self.embedding(element_features(batch.atomic_numbers).to(batch.positions.dtype))
        state = AtomState(scalar, torch.zeros_like(batch.positions))
        graph = _graph(self.config.graph, batch, neighbors)
        for layer in self.layers:
            state = layer(state, graph, neighbors)
        return NodeFeatures(state.scalar, state.displacement[:, :, None][..., : self.n_vector])

    def stages(self) -> Sequence[nn.Module]:
        """Return the embedding of the elements, then the layers."""
        return [self.embedding, *self.layers]


def element_features(atomic_numbers: Int[Tensor, " n_atoms"]) -> Float[Tensor, "n_atoms 300"]:
    """Return the element of each atom, one-hot, times the powers of Z/100; column 3 Z + power."""
    powers = (atomic_numbers[:, None].double() / N_ELEMENTS) ** torch.arange(N_POWERS, device=atomic_numbers.device)
    return (F.one_hot(atomic_numbers, N_ELEMENTS)[:, :, None] * powers[:, None]).flatten(1)


class AtomState(NamedTuple):
    """State of the atoms between layers."""

    scalar: Float[Tensor, "n_atoms F"]
    displacement: Float[Tensor, "n_atoms 3"]
    """Displacement from the input positions, Å."""


class Graph(NamedTuple):
    """Features of the edges, the same for all layers."""

    positions: Float[Tensor, "n_atoms 3"]
    """Å."""
    squared_distance: Float[Tensor, "*edges 1"]
    """Å²."""
    codes: Float[Tensor, "*edges n_codes"]
    fade: Float[Tensor, "*edges 1"]


def _graph(config: BondGraph | RadiusGraph, batch: Batch, neighbors: Neighbors) -> Graph:
    distance = neighbors.distances[..., None]
    match config:
        case BondGraph():
            hops = neighbors.of_blocks(hop_blocks(batch, config.max_hops))
            codes, fade = F.one_hot(hops, config.max_hops + 1).to(distance.dtype), torch.ones_like(distance)
        case RadiusGraph():
            codes, fade = distance[..., :0], cosine_cutoff(distance, config.cutoff)
    of_edges = neighbors.to_edges(torch.cat([distance.square(), codes, fade], dim=-1), self_edges=False)
    squared_distance, codes, fade = of_edges.split([1, codes.shape[-1], 1], dim=-1)
    return Graph(batch.positions, squared_distance, codes, fade)


class EdgeLinear(nn.Module):
    r"""A linear map of the joined features of receiver, sender and edge, which are never joined.

    .. math:: W [h_i, h_j, e_{ij}] + b = W_r h_i + W_s h_j + (W_e e_{ij} + b)

    The first two products are of the atoms, not of the edges: nearly all the work of the joined form is saved. The
    weight is laid out and initialised as that of the joined form.
    """

    def __init__(self, n_features: int, n_edge: int, n_out: int) -> None:
        super().__init__()
        self.parts = [n_features, n_features, n_edge]
        self.joined = xavier(sum(self.parts), n_out)

    def forward(
        self, atoms: Float[Tensor, "n_atoms F"], edges: Float[Tensor, "*edges n_edge"], neighbors: Neighbors
    ) -> Float[Tensor, "*edges n_out"]:
        """Return the map of every edge."""
        for_receiver, for_sender, for_edge = self.joined.weight.split(self.parts, dim=1)
        received, sent = linear(atoms, for_receiver), linear(atoms, for_sender)  # [N, n_out]
        return neighbors.of_receiver(received) + neighbors.of_sender(sent) + linear(edges, for_edge, self.joined.bias)


class Messages(nn.Module):
    r"""The message of each edge, with a gate.

    .. math:: m_{ij} = \mathrm{SiLU}(W_2\,\mathrm{SiLU}(W_1 [h_i, h_j, \|x_i - x_j\|^2, a_{ij}])), \qquad
              m_{ij} \leftarrow m_{ij}\,\sigma(w^\top m_{ij} + b)\,f_{ij}
    """

    def __init__(self, n_features: int, n_edge: int) -> None:
        super().__init__()
        self.first = EdgeLinear(n_features, n_edge, n_features)
        self.second = xavier(n_features, n_features)
        self.gate = xavier(n_features, 1)

    def forward(
        self, scalar: Float[Tensor, "n_atoms F"], squared_distance: Tensor, graph: Graph, neighbors: Neighbors
    ) -> Float[Tensor, "*edges F"]:
        """Return the messages."""
        edges = torch.cat([squared_distance, graph.codes], dim=-1)
        message = silu(self.second(silu(self.first(scalar, edges, neighbors))))  # [edges, F]
        return message * (torch.sigmoid(self.gate(message)) * graph.fade)


class NodeUpdate(nn.Module):
    r"""Return :math:`h_i + V_2\,\mathrm{SiLU}(V_1 [h_i, \sum_j m_{ij}])`."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.first = xavier(2 * n_features, n_features)
        self.second = xavier(n_features, n_features)

    def forward(
        self, scalar: Float[Tensor, "n_atoms F"], received: Float[Tensor, "n_atoms F"]
    ) -> Float[Tensor, "n_atoms F"]:
        """Return the new scalars."""
        return scalar + self.second(silu(self.first(torch.cat([scalar, received], dim=-1))))


class InvariantLayer(nn.Module):
    """Messages and update; the atoms stay where they are."""

    def __init__(self, n_features: int, n_edge: int) -> None:
        super().__init__()
        self.messages = Messages(n_features, n_edge)
        self.update = NodeUpdate(n_features)

    def forward(self, state: AtomState, graph: Graph, neighbors: Neighbors) -> AtomState:
        """Return the new state."""
        messages = self.messages(state.scalar, graph.squared_distance, graph, neighbors)
        return state._replace(scalar=self.update(state.scalar, neighbors.message_sum(messages)))


class MovingLayer(nn.Module):
    r"""Messages and update, after which each atom is pushed along the lines to its neighbours.

    .. math:: x_i \leftarrow x_i + \frac{\sum_j f_{ij}\,(x_i - x_j)\,\phi(m_{ij})}{1 + \sum_j f_{ij}}

    The published denominator is the number of neighbours, which is undefined for a lone atom and jumps at a cutoff.
    """

    def __init__(self, n_features: int, n_edge: int) -> None:
        super().__init__()
        self.messages = Messages(n_features, n_edge)
        self.update = NodeUpdate(n_features)
        self.push = nn.Sequential(xavier(n_features, n_features), nn.SiLU(), _small(n_features))

    def forward(self, state: AtomState, graph: Graph, neighbors: Neighbors) -> AtomState:
        """Return the new state."""
        positions = graph.positions + state.displacement
        away = neighbors.of_receiver(positions) - neighbors.of_sender(positions)  # [edges, 3]
        messages = self.messages(state.scalar, away.square().sum(-1, keepdim=True), graph, neighbors)
        pushes = away * (self.push(messages) * graph.fade)  # [edges, 3]
        shift = neighbors.message_sum(pushes) / (1 + neighbors.message_sum(graph.fade))
        return AtomState(self.update(state.scalar, neighbors.message_sum(messages)), state.displacement + shift)


def _small(n_features: int) -> nn.Linear:
    linear = nn.Linear(n_features, 1, bias=False)
    nn.init.xavier_uniform_(linear.weight, gain=COORDINATE_GAIN)
    return linear
