"""TorchMD-NET's Equivariant Transformer (Thölke and De Fabritiis, ICLR 2022)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from basinet.backbones.base import Backbone, Layout, NodeFeatures
from basinet.config import settings
from basinet.nn.equivariant import CompatibleWhitenedNorm, WhitenedNorm
from basinet.nn.linear import xavier
from basinet.nn.radial import ExponentialNormalBasis, cosine_cutoff
from basinet.nn.silu import silu
from basinet.speed.differentiable import EdgeStage, differentiable
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs
from basinet.speed.pair_stage import PairInputs
from basinet.speed.pair_sum import pair_sum
from basinet.structures.batch import Batch
from basinet.structures.dense import DenseNeighbors
from basinet.structures.layouts import neighbors_of
from basinet.structures.molecule import N_ELEMENTS
from basinet.structures.neighbors import Neighbors
from basinet.structures.sparse import PairList, SparseNeighbors

"""Rows of the element tables, as published; row 0 is unused."""


PairStage = Callable[[PairList], EdgeStage[PairInputs]]
"""Gives the edge stage over a list of pairs."""


class RadialFeatures:
    """The functions of the distance that every layer starts from, once per pair and when they are first asked for."""

    def __init__(self, distance: Float[Tensor, "*pairs"], basis: ExponentialNormalBasis) -> None:
        self.distance = distance
        """Å."""
        self._basis = basis

    @cached_property
    def basis(self) -> Float[Tensor, "*pairs n_basis"]:
        """The radial functions."""
        return self._basis(self.distance)

    @cached_property
    def fade(self) -> Float[Tensor, "*pairs"]:
        """The cosine cutoff: 1 at distance zero, 0 from the cutoff on."""
        return cosine_cutoff(self.distance, self._basis.cutoff)


@settings
class EquivariantTransformerConfig:
    """Size and variant of the Equivariant Transformer; the defaults train in minutes on a laptop."""

    kind: Literal["equivariant_transformer"] = "equivariant_transformer"
    """Which backbone."""
    n_features: int = 64
    """Width of scalar and vector features."""
    n_layers: int = 4
    """Attention layers."""
    n_heads: int = 8
    """Attention heads; must divide n_features."""
    n_basis: int = 32
    """Radial functions."""
    cutoff: float = 5.0
    """Radius of interaction, Å."""
    vector_cutoff: bool = True
    """Whether vector messages fade to zero at the cutoff. The published networks have no such fading, so their forces
    jump when a neighbour crosses the cutoff; turn it off only to use their weights."""
    vector_norm: Literal["none", "whitened", "whitened_compatible"] = "none"
    """Norm of the vector features that leave the backbone. whitened: exactly equivariant; whitened_compatible: as
    released with coordinate denoising, which breaks equivariance by a few percent."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        for name in ("n_features", "n_layers", "n_heads", "n_basis"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_features % self.n_heads:
            raise ValueError(f"n_heads must divide n_features, got {self.n_heads} heads for {self.n_features} features")
        if self.cutoff <= 0:
            raise ValueError(f"cutoff must be positive (Å), got {self.cutoff}")


ET_SMALL = EquivariantTransformerConfig()
ET_128 = EquivariantTransformerConfig(n_features=128, n_layers=6, n_basis=32, vector_cutoff=False)
"""The published size for forces (MD17)."""
ET_256 = EquivariantTransformerConfig(
    n_features=256, n_layers=8, n_basis=64, vector_cutoff=False, vector_norm="whitened"
)
"""The published size for pre-training by coordinate denoising and for QM9."""


class EquivariantTransformer(Backbone):
    """Attention over neighbours with scalar and vector features, as published (appendix A of the paper).

    Differences in form, none in value: the maps that share an input are one matrix product; filters depend on the
    distance alone and are evaluated once per pair; the value is stored as three blocks (x, a, b) of all heads instead
    of (x, a, b) inside each head, which a converter permutes.
    """

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.cutoff = config.cutoff
        self.n_scalar = self.n_vector = config.n_features
        self.edge_stage: EdgeStage[EdgeInputs] | PairStage | None = None
        self.embedding = nn.Embedding(N_ELEMENTS, config.n_features)
        self.basis = ExponentialNormalBasis(config.n_basis, config.cutoff)
        self.neighbor_embedding = NeighborEmbedding(config.n_features, config.n_basis)
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(config.n_layers))
        self.scalar_norm = nn.LayerNorm(config.n_features)
        self.vector_norm = _vector_norm(config)

    def forward(self, batch: Batch, neighbors: Neighbors) -> NodeFeatures:
        """Return scalars [n_atoms, F] and vectors [n_atoms, 3, F]."""
        neighbors = neighbors.as_list() if self.goes_by_pairs else neighbors
        radial = RadialFeatures(neighbors.distances, self.basis)
        scalar = self.embedding(batch.atomic_numbers)
        scalar = self.neighbor_embedding(scalar, batch.atomic_numbers, neighbors, radial)
        vector = scalar.new_zeros(len(scalar), 3, self.n_vector)
        for layer in self.layers:
            scalar, vector = layer(scalar, vector, neighbors, radial)
        return NodeFeatures(self.scalar_norm(scalar), self.vector_norm(vector))

    def lay_out(self, batch: Batch, layout: Layout = neighbors_of) -> Neighbors:
        """Return a list of pairs for kernels that go by them."""
        listed = layout is neighbors_of and self.goes_by_pairs
        return super().lay_out(batch, SparseNeighbors if listed else layout)

    def use_edge_stage(self, edge_stage: EdgeStage[EdgeInputs] | PairStage | None) -> None:
        """Compute messages by another implementation: in the dense layout, or over pairs; ``None``: as written here.

        It is no part of the model: it is not saved.
        """
        self.edge_stage = edge_stage
        self.neighbor_embedding.goes_by_pairs = edge_stage is not None and not isinstance(edge_stage, EdgeStage)
        for layer in self._attention_layers():
            layer.edge_stage = edge_stage

    @property
    def goes_by_pairs(self) -> bool:
        """Whether messages are computed over a list of pairs."""
        return any(layer.goes_by_pairs for layer in self._attention_layers())

    @contextmanager
    def plain_edges(self) -> Iterator[None]:
        """Compute messages as written here for a while: what is recorded is to be compiled as a whole."""
        before = self.edge_stage
        self.use_edge_stage(None)
        try:
            yield
        finally:
            self.use_edge_stage(before)

    def _attention_layers(self) -> list["AttentionLayer"]:
        return [layer for layer in self.layers if isinstance(layer, AttentionLayer)]

    def stages(self) -> Sequence[nn.Module]:
        """Return both embeddings as one, then the layers."""
        return [nn.ModuleList([self.embedding, self.neighbor_embedding]), *self.layers]


def _vector_norm(config: EquivariantTransformerConfig) -> nn.Module:
    match config.vector_norm:
        case "none":
            return nn.Identity()
        case "whitened":
            return WhitenedNorm(config.n_features)
        case "whitened_compatible":
            return CompatibleWhitenedNorm(config.n_features)


class NeighborEmbedding(nn.Module):
    """Add to each atom's embedding a sum over its neighbours' (section 3.1 of the paper, "neighborhood embedding")."""

    def __init__(self, n_features: int, n_basis: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_ELEMENTS, n_features)
        self.filter = xavier(n_basis, n_features)
        self.combine = xavier(2 * n_features, n_features)
        self.goes_by_pairs = False

    def forward(
        self,
        scalar: Float[Tensor, "n_atoms F"],
        atomic_numbers: Tensor,
        neighbors: Neighbors,
        radial: RadialFeatures,
    ) -> Float[Tensor, "n_atoms F"]:
        """Return the new scalars."""
        filters, embedded = self.filters_of(radial), self.embedding(atomic_numbers)
        if self.goes_by_pairs and isinstance(neighbors, SparseNeighbors):
            gathered = pair_sum(neighbors.pair_list, filters, embedded)
        else:
            gathered = neighbors.weighted_sum(neighbors.to_edges(filters, self_edges=False), embedded)
        return self.combine(torch.cat([scalar, gathered], dim=-1))

    def filters_of(self, radial: RadialFeatures) -> Float[Tensor, "*pairs F"]:
        """Return the filter of each pair."""
        return self.filter(radial.basis) * radial.fade[..., None]


class AtomMaps(NamedTuple):
    """The linear maps of the scalars of atoms that a layer starts with."""

    query: Float[Tensor, "n_atoms F"]
    key: Float[Tensor, "n_atoms F"]
    value_x: Float[Tensor, "n_atoms F"]
    value_a: Float[Tensor, "n_atoms F"]
    value_b: Float[Tensor, "n_atoms F"]


class AttentionLayer(nn.Module):
    """One update of scalars and vectors (figure 2 of the paper).

    ============================  =====================================================
    :math:`q, k`                  ``query``, ``key``, each [n_atoms, F]
    :math:`D^K, D^V`              ``filter_k`` [edges, F], ``filter_x/a/b`` [edges, F]
    :math:`s^1, s^2, s^3`         ``value_x``, ``value_a``, ``value_b``
    :math:`U_1 v, U_2 v, U_3 v`   ``vector_1``, ``vector_2``, ``vector_3``
    ============================  =====================================================
    """

    def __init__(self, config: EquivariantTransformerConfig) -> None:
        super().__init__()
        n = config.n_features
        self.n_features, self.n_heads = n, config.n_heads
        self.vector_cutoff = config.vector_cutoff
        self.edge_stage: EdgeStage[EdgeInputs] | PairStage | None = None
        self.norm = nn.LayerNorm(n)
        self.query_key_value = xavier(n, n, n, 3 * n)
        self.filters = xavier(config.n_basis, n, 3 * n)
        self.vector_projection = xavier(n, 3 * n, bias=False)
        self.output = xavier(n, 3 * n)

    @property
    def goes_by_pairs(self) -> bool:
        """Whether messages are computed over a list of pairs."""
        return self.edge_stage is not None and not isinstance(self.edge_stage, EdgeStage)

    def forward(
        self,
        scalar: Float[Tensor, "n_atoms F"],
        vector: Float[Tensor, "n_atoms 3 F"],
        neighbors: Neighbors,
        radial: RadialFeatures,
    ) -> tuple[Float[Tensor, "n_atoms F"], Float[Tensor, "n_atoms 3 F"]]:
        """Return the new scalars and vectors."""
        n = self.n_features
        of_atoms = AtomMaps(*self.query_key_value(self.norm(scalar)).split(n, dim=-1))
        message, vector_message = self._messages(of_atoms, vector, neighbors, radial)
        vector_1, vector_2, vector_3 = self.vector_projection(vector).split(n, dim=-1)
        out_1, out_2, out_3 = self.output(message).split(n, dim=-1)
        scalar = scalar + (vector_1 * vector_2).sum(1) * out_2 + out_3
        return scalar, vector + vector_3 * out_1[:, None] + vector_message

    def _messages(
        self, of_atoms: AtomMaps, vector: Float[Tensor, "n_atoms 3 F"], neighbors: Neighbors, radial: RadialFeatures
    ) -> tuple[Float[Tensor, "n_atoms F"], Float[Tensor, "n_atoms 3 F"]]:
        """Return the sums over neighbours."""
        match self.edge_stage, neighbors:
            case EdgeStage() as edge_stage, DenseNeighbors():
                return self._fused_messages(edge_stage, of_atoms, vector, neighbors, radial)
            case Callable() as pair_stage, SparseNeighbors() if self.goes_by_pairs:
                return self._pair_messages(pair_stage, of_atoms, vector, neighbors, radial)
            case _:
                return self._written_messages(of_atoms, vector, neighbors, radial)

    def _written_messages(
        self, of_atoms: AtomMaps, vector: Float[Tensor, "n_atoms 3 F"], neighbors: Neighbors, radial: RadialFeatures
    ) -> tuple[Float[Tensor, "n_atoms F"], Float[Tensor, "n_atoms 3 F"]]:
        """Return them by the formulas, in PyTorch."""
        query, key, value_x, value_a, value_b = of_atoms
        filter_k, filter_x, filter_a, filter_b = (neighbors.to_edges(f) for f in self.filters_of(radial))
        weights = self._attend(filter_x, query, key, filter_k, neighbors)  # [edges, F]
        message = neighbors.weighted_sum(weights, value_x)  # [N, F]
        vector_message = neighbors.weighted_sum(filter_a, vector * value_a[:, None])  # [N, 3, F]
        return message, vector_message + neighbors.directed_sum(filter_b * neighbors.of_sender(value_b))

    def _fused_messages(
        self,
        edge_stage: EdgeStage[EdgeInputs],
        of_atoms: AtomMaps,
        vector: Float[Tensor, "n_atoms 3 F"],
        neighbors: DenseNeighbors,
        radial: RadialFeatures,
    ) -> tuple[Float[Tensor, "n_atoms F"], Float[Tensor, "n_atoms 3 F"]]:
        """Return the same sums, with the cutoffs of all filters in one product and no tensor of the edges."""
        padding, mask, unit = neighbors.edge_blocks
        query, key, value_x, value_a, value_b = of_atoms
        inputs = EdgeInputs(
            query=padding.pad(query),
            key=padding.pad(key),
            scalar=padding.pad(value_x),
            vector=padding.pad(vector * value_a[:, None]),
            directed=padding.pad(value_b),
            filters=self._masked_filters(radial, mask),
            unit=unit,
        )
        messages = differentiable(edge_stage, inputs, self.n_heads)
        return padding.unpad(messages.message), padding.unpad(messages.vector_message)

    def _pair_messages(
        self,
        pair_stage: PairStage,
        of_atoms: AtomMaps,
        vector: Float[Tensor, "n_atoms 3 F"],
        neighbors: SparseNeighbors,
        radial: RadialFeatures,
    ) -> EdgeOutputs:
        """Return the same sums; of the pairs, only the filters before their activation are written."""
        query, key, value_x, value_a, value_b = of_atoms
        inputs = PairInputs(
            query, key, value_x, vector * value_a[:, None], value_b,
            filters=self.filters(radial.basis).unflatten(-1, (4, -1)),
            fades=self._fades(radial, torch.ones_like(radial.distance)),
            unit=neighbors.unit,
        )  # fmt: skip
        return differentiable(pair_stage(neighbors.pair_list), inputs, self.n_heads)

    def _fades(self, radial: RadialFeatures, near: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs 4"]:
        """Return the factors of the filters k, x, a and b."""
        fade = near * radial.fade
        fade_vector = fade if self.vector_cutoff else near
        return torch.stack([near, fade, fade_vector, fade_vector], dim=-1)

    def _masked_filters(
        self, radial: RadialFeatures, mask: Bool[Tensor, "*pairs"]
    ) -> Float[Tensor, "*pairs 4 n_features"]:
        """Return the filters k, x, a and b, zero where atoms are not neighbours."""
        near = mask.to(radial.distance)
        return silu(self.filters(radial.basis)).unflatten(-1, (4, -1)) * self._fades(radial, near)[..., None]

    def filters_of(self, radial: RadialFeatures) -> tuple[Float[Tensor, "*pairs F"], ...]:
        """Return the filters k, x, a and b; the cutoff of the attention is folded into that of the scalar value, x."""
        for_key, for_scalar, for_a, for_b = silu(self.filters(radial.basis)).split(self.n_features, dim=-1)
        fade = radial.fade[..., None]
        if self.vector_cutoff:
            for_a, for_b = for_a * fade, for_b * fade
        return for_key, for_scalar * fade, for_a, for_b

    def _attend(
        self, filter_x: Float[Tensor, "*edges F"], query: Tensor, key: Tensor, filter_k: Tensor, neighbors: Neighbors
    ) -> Float[Tensor, "*edges F"]:
        """Return the filter of the value times the attention: SiLU of the filtered product of query and key."""
        product = neighbors.of_receiver(query) * (neighbors.of_sender(key) * filter_k)
        # Sum over, and broadcast to, the features of a head as matrix products: inner loops of n_features / n_heads
        # elements would cost more than half of the step on a CPU.
        of_head = torch.eye(self.n_heads, dtype=product.dtype, device=product.device)
        of_head = of_head.repeat_interleave(self.n_features // self.n_heads, dim=1)  # [H, F]
        return filter_x * (silu(product @ of_head.T) @ of_head)
