r"""The Equivariant Transformer of TorchMD-NET (Thölke and De Fabritiis, ICLR 2022).

Equations of its section 3, in the order of the code; :math:`\odot` is a product by elements, :math:`\sigma` is SiLU,
:math:`e(r)` are the radial functions and :math:`\phi(r)` is the cosine cutoff.

.. math::
    n_i &= \sum_{j \ne i} \mathrm{emb}'(Z_j) \odot \phi(r_{ij})\,(W_f\,e(r_{ij}) + b_f)                  \tag{1} \\
    x_i &= W_c\,[\mathrm{emb}(Z_i),\ n_i] + b_c                                                          \tag{2} \\
    D^K_{ij} &= \sigma(W_{dk}\,e(r_{ij}) + b_{dk}), \qquad D^V_{ij} = \sigma(W_{dv}\,e(r_{ij}) + b_{dv}) \tag{3} \\
    A_{ij} &= \sigma\Big(\sum_{f \in \text{head}} q_i \odot k_j \odot D^K_{ij}\Big)\,\phi(r_{ij})        \tag{4} \\
    s^1_{ij}, s^2_{ij}, s^3_{ij} &= \mathrm{split}(v_j \odot D^V_{ij}), \qquad
    y_i = \sum_j A_{ij}\, s^3_{ij}                                                                       \tag{5} \\
    u_i &= \sum_j s^1_{ij} \odot \vec v_j + s^2_{ij} \odot \hat r_{ij}                                   \tag{6} \\
    q^1_i, q^2_i, q^3_i &= \mathrm{split}(W_o\,y_i + b_o)                                                \tag{7} \\
    \Delta x_i &= q^1_i + q^2_i \odot \langle U_1 \vec v_i, U_2 \vec v_i \rangle, \qquad
    \Delta \vec v_i = q^3_i \odot U_3 \vec v_i + u_i                                                     \tag{8}

Sums over j hold the atom itself, at distance zero, except in (1).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from basinet.backbones.base import Backbone, BackboneSettings, KernelKind, Layout, NodeFeatures
from basinet.backbones.transformer_kernels import (
    AtomMaps,
    Attention,
    Edges,
    Implementation,
    native_kernels,
    triton_kernels,
)
from basinet.config import Count, Positive, settings
from basinet.nn.equivariant import CompatibleWhitenedNorm, WhitenedNorm
from basinet.nn.modules import xavier
from basinet.nn.radial import ExponentialNormalBasis, RadialFeatures
from basinet.nn.silu import silu
from basinet.speed.edge_stage import EdgeOutputs
from basinet.structures.batch import Batch
from basinet.structures.layouts import neighbors_of
from basinet.structures.molecule import N_ELEMENTS
from basinet.structures.neighbors import Neighbors


@settings
class EquivariantTransformerConfig(BackboneSettings):
    """Size and variant of the Equivariant Transformer; the defaults train in minutes on a laptop."""

    kind: Literal["equivariant_transformer"] = "equivariant_transformer"
    """Name of the backbone."""
    n_features: Count = 64
    """Width of scalar and vector features."""
    n_layers: Count = 4
    """Attention layers."""
    n_heads: Count = 8
    """Attention heads; must divide n_features."""
    n_basis: Count = 32
    """Radial functions."""
    cutoff: Positive = 5.0
    """Radius of interaction, Å."""
    vector_cutoff: bool = True
    """Let vector messages fade to zero at the cutoff. The published networks do not, so their forces jump when a
    neighbour crosses the cutoff; turn it off only to use their weights."""
    vector_norm: Literal["none", "whitened", "whitened_compatible"] = "none"
    """Norm of the vector features that leave the backbone. whitened: exactly equivariant; whitened_compatible: as
    released with coordinate denoising, which breaks equivariance by a few percent."""

    def __post_init__(self) -> None:
        """Check that heads have the same number of features."""
        if self.n_features % self.n_heads:
            raise ValueError(f"n_heads must divide n_features, got {self.n_heads} heads for {self.n_features} features")

    def build(self) -> "EquivariantTransformer":
        """Return the network with random weights."""
        return EquivariantTransformer(self)


ET_128 = EquivariantTransformerConfig(n_features=128, n_layers=6, n_basis=32, vector_cutoff=False)
"""The published size for forces (MD17)."""
ET_256 = EquivariantTransformerConfig(
    n_features=256, n_layers=8, n_basis=64, vector_cutoff=False, vector_norm="whitened"
)
"""The published size for pre-training by coordinate denoising and for QM9."""


class EquivariantTransformer(Backbone):
    """Attention over neighbours with scalar and vector features, as published (appendix A of the paper).

    Differences in form, none in value: maps that share an input are one matrix product; filters depend on the distance
    alone and are evaluated once per pair; the value is stored as three blocks (x, a, b) of all heads instead of
    (x, a, b) inside each head, which a converter permutes.
    """

    available_kernels: ClassVar[frozenset[KernelKind]] = frozenset({"native", "triton"})

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.n_scalar = self.n_vector = config.n_features
        self.implementation = PLAIN
        self.embedding = nn.Embedding(N_ELEMENTS, config.n_features)
        self.basis = ExponentialNormalBasis(config.n_basis, config.cutoff)
        self.neighbor_embedding = NeighborEmbedding(config.n_features, config.n_basis)
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(config.n_layers))
        self.scalar_norm = nn.LayerNorm(config.n_features)
        self.vector_norm = _vector_norm(config)

    def forward(self, batch: Batch, neighbors: Neighbors) -> NodeFeatures:
        """Return scalars [n_atoms, F] and vectors [n_atoms, 3, F]."""
        edges = self.implementation.edges(neighbors, self.basis)
        scalar = self.embedding(batch.atomic_numbers)  # [N, F]
        scalar = self.neighbor_embedding(scalar, batch.atomic_numbers, edges)  # [N, F]
        vector = scalar.new_zeros(len(scalar), 3, self.n_vector)  # [N, 3, F]
        for layer in self.layers:
            scalar, vector = layer(scalar, vector, edges)
        return NodeFeatures(self.scalar_norm(scalar), self.vector_norm(vector))

    def stages(self) -> Sequence[nn.Module]:
        """Return both embeddings as one, then the layers."""
        return [nn.ModuleList([self.embedding, self.neighbor_embedding]), *self.layers]

    def lay_out(self, batch: Batch, layout: Layout = neighbors_of) -> Neighbors:
        """Return the neighbours of a batch, by default in the layout of the implementation in use."""
        return super().lay_out(batch, self.implementation.layout if layout is neighbors_of else layout)

    def use_kernels(self, kind: KernelKind, device: torch.device | None = None) -> str | None:
        """Choose the implementation of the sums over edges."""
        sizes = self.config.n_features, self.config.n_heads, device or next(self.parameters()).device
        match kind:
            case "plain":
                found = PLAIN
            case "native":
                found = native_kernels(*sizes)
            case "triton":
                found = triton_kernels(*sizes, PlainEdges)
        if isinstance(found, str):
            return found
        self.implementation = found
        return None


def _vector_norm(config: EquivariantTransformerConfig) -> nn.Module:
    match config.vector_norm:
        case "none":
            return nn.Identity()
        case "whitened":
            return WhitenedNorm(config.n_features)
        case "whitened_compatible":
            return CompatibleWhitenedNorm(config.n_features)


class NeighborEmbedding(nn.Module):
    """Add to each atom's embedding a sum over those of its neighbours: equations (1) and (2)."""

    def __init__(self, n_features: int, n_basis: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_ELEMENTS, n_features)
        self.filter = xavier(n_basis, n_features)
        self.combine = xavier(2 * n_features, n_features)

    def forward(
        self, scalar: Float[Tensor, "n_atoms F"], atomic_numbers: Int[Tensor, " n_atoms"], edges: Edges
    ) -> Float[Tensor, "n_atoms F"]:
        """Return the new scalars."""
        around = edges.neighbor_sum(self.filter, self.embedding(atomic_numbers))  # [N, F]   (1)
        return self.combine(torch.cat([scalar, around], dim=-1))  # [N, F]   (2)


class AttentionLayer(nn.Module):
    """One update of scalars and vectors: equations (3) to (8), figure 2 of the paper.

    ===============================  =================================================
    :math:`q, k`                     ``query``, ``key`` [N, F]
    :math:`v`                        ``value_x``, ``value_a``, ``value_b`` [N, F]
    :math:`D^K, D^V`                 filters k; x, a and b, each [edges, F]
    :math:`s^3, s^1, s^2`            the values x, a and b times their filters
    :math:`y, u`                     ``message`` [N, F], ``vector_message`` [N, 3, F]
    :math:`U_1 v, U_2 v, U_3 v`      ``vector_1``, ``vector_2``, ``vector_3`` [N, 3, F]
    :math:`q^3, q^2, q^1`            ``out_1``, ``out_2``, ``out_3`` [N, F]
    ===============================  =================================================
    """

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__()
        n = config.n_features
        self.n_features, self.n_heads = n, config.n_heads
        self.vector_cutoff = config.vector_cutoff
        self.norm = nn.LayerNorm(n)
        self.query_key_value = xavier(n, n, n, 3 * n)
        self.filters = xavier(config.n_basis, n, 3 * n)
        self.vector_projection = xavier(n, 3 * n, bias=False)
        self.output = xavier(n, 3 * n)

    def forward(
        self, scalar: Float[Tensor, "n_atoms F"], vector: Float[Tensor, "n_atoms 3 F"], edges: Edges
    ) -> tuple[Float[Tensor, "n_atoms F"], Float[Tensor, "n_atoms 3 F"]]:
        """Return the new scalars and vectors."""
        n = self.n_features
        maps = AtomMaps(*self.query_key_value(self.norm(scalar)).split(n, dim=-1))  # [N, F] each
        message, vector_message = edges.attention_sums(self, maps, vector)  # [N, F], [N, 3, F]   (3) to (6)
        vector_1, vector_2, vector_3 = self.vector_projection(vector).split(n, dim=-1)  # [N, 3, F]
        out_1, out_2, out_3 = self.output(message).split(n, dim=-1)  # [N, F]   (7)
        scalar = scalar + (vector_1 * vector_2).sum(1) * out_2 + out_3  # [N, F]   (8)
        return scalar, vector + vector_3 * out_1[:, None] + vector_message  # [N, 3, F]   (8)


class PlainEdges(Edges):
    """Sums over edges in PyTorch, as the equations stand."""

    def __init__(self, neighbors: Neighbors, basis: ExponentialNormalBasis) -> None:
        self._neighbors, self.radial = neighbors, RadialFeatures(neighbors.distances, basis)

    def neighbor_sum(self, filters: nn.Module, values: Float[Tensor, "n_atoms F"]) -> Float[Tensor, "n_atoms F"]:
        """Return equation (1)."""
        weights = filters(self.radial.basis) * self.radial.fade[..., None]  # [pairs, F]
        return self._neighbors.weighted_sum(self._neighbors.to_edges(weights, self_edges=False), values)  # [N, F]

    def attention_sums(self, layer: Attention, maps: AtomMaps, vector: Float[Tensor, "n_atoms 3 F"]) -> EdgeOutputs:
        """Return equations (5) and (6)."""
        neighbors = self._neighbors
        query, key, value_x, value_a, value_b = maps
        filter_k, filter_x, filter_a, filter_b = (neighbors.to_edges(f) for f in self._filters(layer))  # [edges, F]
        product = neighbors.of_receiver(query) * (neighbors.of_sender(key) * filter_k)  # [edges, F]
        weights = filter_x * _over_heads(product, layer.n_heads)  # [edges, F]   (4), times the filter of s3
        message = neighbors.weighted_sum(weights, value_x)  # [N, F]   (5)
        vector_message = neighbors.weighted_sum(filter_a, vector * value_a[:, None])  # [N, 3, F]   (6)
        directed = neighbors.directed_sum(filter_b * neighbors.of_sender(value_b))  # [N, 3, F]   (6)
        return EdgeOutputs(message, vector_message + directed)

    def _filters(self, layer: Attention) -> tuple[Float[Tensor, "*pairs F"], ...]:
        """Return the filters k, x, a and b of equation (3); x holds the cutoff of the attention in (4)."""
        for_key, for_scalar, for_a, for_b = silu(layer.filters(self.radial.basis)).chunk(4, dim=-1)
        fade = self.radial.fade[..., None]
        if layer.vector_cutoff:
            for_a, for_b = for_a * fade, for_b * fade
        return for_key, for_scalar * fade, for_a, for_b


def _over_heads(product: Float[Tensor, "*edges F"], n_heads: int) -> Float[Tensor, "*edges F"]:
    """Return SiLU of the sum over the features of each head, repeated for each of them."""
    # Matrix products: inner loops of n_features / n_heads elements would cost more than half of the step on a CPU.
    of_head = torch.eye(n_heads, dtype=product.dtype, device=product.device)
    of_head = of_head.repeat_interleave(product.shape[-1] // n_heads, dim=1)  # [H, F]
    return silu(product @ of_head.T) @ of_head


PLAIN = Implementation("plain", PlainEdges, neighbors_of)
"""The equations in PyTorch."""
