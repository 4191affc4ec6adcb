"""Define the interface of backbones and of their settings."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from basinet.structures.batch import Batch
from basinet.structures.layouts import neighbors_of
from basinet.structures.neighbors import Neighbors

Layout = Callable[[Batch, float | None], Neighbors]
"""Builds the neighbours of a batch within a cutoff (Å)."""
KernelKind = Literal["plain", "native", "triton"]
"""Implementations of messages. plain: PyTorch, the reference; native: C++ on a CPU; triton: GPU kernels."""

Module = TypeVar("Module", bound=nn.Module)


class NodeFeatures(NamedTuple):
    """Features of each atom, as a backbone returns them."""

    scalar: Float[Tensor, "n_atoms n_scalar"]
    """Invariant under rotation."""
    vector: Float[Tensor, "n_atoms 3 n_vector"]
    """Equivariant under rotation; channel last. ``n_vector`` is 0 for an invariant backbone."""


class Backbone(nn.Module, ABC):
    """A network from a batch and its neighbours to features of each atom.

    A backbone takes its neighbours as an argument so that it is written once for both layouts and so that a caller may
    reuse them (a neighbour list in molecular dynamics). It knows nothing of energies, labels or noise: heads do. Its
    output for one molecule must not depend on the others in the batch. :func:`basinet.testing.check_backbone` tests
    what every backbone must do.
    """

    cutoff: float | None
    """Radius of the neighbours it needs, Å; ``None``: all atoms of the molecule."""
    n_scalar: int
    """Number of scalar features."""
    n_vector: int
    """Number of vector features."""
    needs_bonds: bool = False
    """The network reads bonds; molecules without them are refused."""
    available_kernels: ClassVar[frozenset[KernelKind]] = frozenset()
    """Implementations of its messages beside plain PyTorch."""

    @abstractmethod
    def forward(self, batch: Batch, neighbors: Neighbors) -> NodeFeatures:
        """Return features of every atom."""

    @abstractmethod
    def stages(self) -> Sequence[nn.Module]:
        """Return what an atom passes in turn, each with its own weights: the embedding, then every layer.

        What comes after the last layer (a norm) belongs to none of them. Used to freeze the first stages of a
        pre-trained network.
        """

    def lay_out(self, batch: Batch, layout: Layout = neighbors_of) -> Neighbors:
        """Return the neighbours of a batch; by default in the layout that suits it and the backbone."""
        return layout(batch, self.cutoff)

    def use_kernels(self, kind: KernelKind, device: torch.device | None = None) -> str | None:
        """Choose the implementation of the messages; it is not saved with the model.

        Args:
            kind: the implementation.
            device: where the network will be; ``None``: where it is.

        Returns:
            The reason why it is not available (and what is in use stays), or ``None``.

        Raises:
            RunError: the kernels give wrong results on this machine.
        """
        return None if kind == "plain" else f"{type(self).__name__} has no such kernels"


class BackboneSettings(ABC):
    """Settings of a backbone: a class under :func:`basinet.config.settings`.

    Its field ``kind``, of one literal, is the name of the backbone in recipes and model files.
    """

    @property
    def needs_bonds(self) -> bool:
        """True if the backbone reads bonds, and refuses molecules whose bonds are unknown."""
        return False

    @abstractmethod
    def build(self) -> Backbone:
        """Return the backbone with random weights."""


class NoKernelsWarning(UserWarning):
    """Kernels are not available; results are the same, and take longer."""


def with_kernels(model: Module) -> Module:
    """Return a model for inference on a CPU, with the C++ kernels that its backbones have.

    Where they cannot be compiled a :class:`NoKernelsWarning` gives the reason, and PyTorch computes the same.
    """
    for module in model.modules():
        if not isinstance(module, Backbone) or "native" not in module.available_kernels:
            continue
        if next(module.parameters()).device.type == "cpu" and (missing := module.use_kernels("native")) is not None:
            warnings.warn(f"no C++ kernels, so answers take longer: {missing}", NoKernelsWarning, 2)
    return model
