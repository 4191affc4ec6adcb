"""Sums over edges for the Equivariant Transformer, by C++ kernels over pairs or kernels over padded blocks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from basinet.backbones.base import KernelKind, Layout
from basinet.errors import RunError
from basinet.nn.radial import ExponentialNormalBasis, RadialFeatures
from basinet.nn.silu import silu
from basinet.speed.check import largest_error, largest_pair_error
from basinet.speed.cpp import NoCompilerError
from basinet.speed.differentiable import EdgeStage, differentiable
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs
from basinet.speed.pair_native import native
from basinet.speed.pair_stage import PairInputs
from basinet.speed.pair_sum import pair_sum
from basinet.structures.dense import DenseNeighbors
from basinet.structures.layouts import neighbors_of
from basinet.structures.neighbors import Neighbors
from basinet.structures.sparse import SparseNeighbors

TOLERANCE = 1e-4
"""Largest relative error of kernels in float32 against the formulas in float64; rounding gives about 1e-6."""


class AtomMaps(NamedTuple):
    """Linear maps of the scalar features of atoms."""

    query: Float[Tensor, "n_atoms F"]
    key: Float[Tensor, "n_atoms F"]
    value_x: Float[Tensor, "n_atoms F"]
    value_a: Float[Tensor, "n_atoms F"]
    value_b: Float[Tensor, "n_atoms F"]


@runtime_checkable
class Attention(Protocol):
    """Parameters of an attention layer that enter its sums."""

    n_heads: int
    vector_cutoff: bool

    @property
    def filters(self) -> nn.Module:
        """Linear map of the radial basis to the filters k, x, a and b."""
        ...


class Edges(ABC):
    """Sums over the edges of a batch: all that the layers of the network need to know of them."""

    radial: RadialFeatures

    @abstractmethod
    def neighbor_sum(self, filters: nn.Module, values: Float[Tensor, "n_atoms F"]) -> Float[Tensor, "n_atoms F"]:
        """Return the sum of filtered values over the neighbours of each atom, itself left out."""

    @abstractmethod
    def attention_sums(self, layer: Attention, maps: AtomMaps, vector: Float[Tensor, "n_atoms 3 F"]) -> EdgeOutputs:
        """Return the scalar and the vector message of each atom."""


class Implementation(NamedTuple):
    """An implementation of the sums over edges."""

    kind: KernelKind
    edges: Callable[[Neighbors, ExponentialNormalBasis], Edges]
    layout: Layout
    """Layout of neighbours that it is fastest in."""


class BlockEdges(Edges):
    """Sums over padded blocks; attention by an edge stage, without a tensor of the size of the edges."""

    def __init__(self, stage: EdgeStage[EdgeInputs], plain: Edges, neighbors: DenseNeighbors) -> None:
        self.radial = plain.radial
        self._stage, self._plain, self._blocks = stage, plain, neighbors.edge_blocks

    def neighbor_sum(self, filters: nn.Module, values: Float[Tensor, "n_atoms F"]) -> Float[Tensor, "n_atoms F"]:
        """Return the sum over neighbours, as in PyTorch."""
        return self._plain.neighbor_sum(filters, values)

    def attention_sums(self, layer: Attention, maps: AtomMaps, vector: Float[Tensor, "n_atoms 3 F"]) -> EdgeOutputs:
        """Return the messages."""
        padding, mask, unit = self._blocks
        filters = silu(layer.filters(self.radial.basis)).unflatten(-1, (4, -1))
        fades = _fades(self.radial, mask.to(self.radial.distance), layer.vector_cutoff)
        inputs = EdgeInputs(
            query=padding.pad(maps.query),
            key=padding.pad(maps.key),
            scalar=padding.pad(maps.value_x),
            vector=padding.pad(vector * maps.value_a[:, None]),
            directed=padding.pad(maps.value_b),
            filters=filters * fades[..., None],
            unit=unit,
        )
        messages = differentiable(self._stage, inputs, layer.n_heads)
        return EdgeOutputs(padding.unpad(messages.message), padding.unpad(messages.vector_message))


class PairEdges(Edges):
    """Sums over a list of pairs by C++; of the size of the pairs only filters before their activation are stored."""

    def __init__(self, neighbors: Neighbors, basis: ExponentialNormalBasis) -> None:
        self._neighbors = neighbors.as_list()
        self.radial = RadialFeatures(self._neighbors.distances, basis)

    def neighbor_sum(self, filters: nn.Module, values: Float[Tensor, "n_atoms F"]) -> Float[Tensor, "n_atoms F"]:
        """Return the sum over neighbours."""
        weights = filters(self.radial.basis) * self.radial.fade[..., None]
        return pair_sum(self._neighbors.pair_list, weights, values)

    def attention_sums(self, layer: Attention, maps: AtomMaps, vector: Float[Tensor, "n_atoms 3 F"]) -> EdgeOutputs:
        """Return the messages."""
        near = torch.ones_like(self.radial.distance)
        inputs = PairInputs(
            maps.query, maps.key, maps.value_x, vector * maps.value_a[:, None], maps.value_b,
            filters=layer.filters(self.radial.basis).unflatten(-1, (4, -1)),
            fades=_fades(self.radial, near, layer.vector_cutoff),
            unit=self._neighbors.unit,
        )  # fmt: skip
        return differentiable(native(self._neighbors.pair_list), inputs, layer.n_heads)


def _fades(radial: RadialFeatures, near: Float[Tensor, "*pairs"], vector_cutoff: bool) -> Float[Tensor, "*pairs 4"]:
    """Return the factors of the filters k, x, a and b; that of x holds the cutoff of the attention."""
    fade = near * radial.fade
    fade_vector = fade if vector_cutoff else near
    return torch.stack([near, fade, fade_vector, fade_vector], dim=-1)


def by_blocks(
    stage: EdgeStage[EdgeInputs],
    plain: Callable[[Neighbors, ExponentialNormalBasis], Edges],
    kind: KernelKind = "triton",
) -> Implementation:
    """Return an implementation over padded blocks; lists of edges are left to the plain one."""

    def edges(neighbors: Neighbors, basis: ExponentialNormalBasis) -> Edges:
        written = plain(neighbors, basis)
        return BlockEdges(stage, written, neighbors) if isinstance(neighbors, DenseNeighbors) else written

    return Implementation(kind, edges, neighbors_of)


def native_kernels(n_features: int, n_heads: int, device: torch.device) -> Implementation | str:
    """Return the C++ kernels, compiled in seconds when first used on a machine, or why they are not available.

    Energies, forces and gradients change by rounding. There is no third derivative.

    Raises:
        RunError: the kernels give wrong results.
    """
    if device.type != "cpu":
        return f"they need a CPU, and the network is on {device.type}"
    try:
        error = native_error(n_features, n_heads)
    except NoCompilerError as refused:
        return str(refused)
    require_right(error, device)
    return Implementation("native", PairEdges, SparseNeighbors)


def triton_kernels(
    n_features: int,
    n_heads: int,
    device: torch.device,
    plain: Callable[[Neighbors, ExponentialNormalBasis], Edges],
) -> Implementation | str:
    """Return the GPU kernels, or why they are not available; errors as for :func:`native_kernels`."""
    if device.type != "cuda":
        return f"they need a CUDA device, and the network is on {device.type}"
    if find_spec("triton") is None:
        return 'Triton is not installed (pip install "basinet[triton]")'
    from basinet.speed.edge_triton import IN_TRITON

    require_right(block_error(IN_TRITON, n_features, n_heads, device), device)
    return by_blocks(IN_TRITON, plain)


@cache
def native_error(n_features: int, n_heads: int) -> float:
    """Return the largest relative error of the C++ kernels, whatever mode of autograd or device is the default."""
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.device("cpu"):
        return largest_pair_error(native, n_features=n_features, n_heads=n_heads, dtype=torch.float32)


def block_error(stage: EdgeStage[EdgeInputs], n_features: int, n_heads: int, device: torch.device) -> float:
    """Return the largest relative error of an edge stage on a device."""
    return largest_error(stage, n_features=n_features, n_heads=n_heads, device=device, dtype=torch.float32)


def require_right(error: float, device: torch.device) -> None:
    """Raise a ``RunError`` if kernels are further from the formulas than rounding explains."""
    if not error < TOLERANCE:
        raise RunError(
            f"the kernels are off by {error:.1e} on {device}, expected less than {TOLERANCE:g}; "
            "use launch.kernels=plain"
        )
