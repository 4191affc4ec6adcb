"""From node features to predictions: the energy of a molecule, one vector per atom, the size of the noise."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn

from basinet.backbones.base import Backbone, NodeFeatures
from basinet.nn.equivariant import GatedEquivariantBlock
from basinet.nn.exact import ExactBuffers
from basinet.noise.ladder import N_LEVELS
from basinet.speed.products import Linear
from basinet.structures.batch import Batch
from basinet.structures.pairs import AtomPairs
from basinet.structures.segment import sum_per_molecule

HeadKind = Literal[
    "gated_energy", "invariant_energy", "pooled_energy", "noise", "noise_level", "pooled_noise_level", "distance_score"
]
"""What kind of head a model file holds under a name; property heads (``models/heads/properties.py``) it lists apart."""


class Head(nn.Module, ABC):
    """One prediction of a model, under the name it has in ``Model.heads``."""

    kind: ClassVar[HeadKind | Literal["property"]]


class EnergyHead(Head, ABC):
    """The energy of each molecule in units of the energy scale, without reference energies, float64."""

    @abstractmethod
    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energies."""


class AtomicEnergyHead(EnergyHead):
    """A sum of atomic energies from two gated blocks (TorchMD-NET's ``EquivariantScalar``)."""

    kind = "gated_energy"

    def __init__(self, n_scalar: int, n_vector: int) -> None:
        super().__init__()
        self.first = GatedEquivariantBlock(n_scalar, n_scalar // 2, n_vector=n_vector, activate=True)
        self.second = GatedEquivariantBlock(n_scalar // 2, 1, activate=False)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energies."""
        scalar, _ = self.second(*self.first(features.scalar, features.vector))
        return sum_per_molecule(scalar[:, 0].double(), batch)


class InvariantEnergyHead(EnergyHead):
    """A sum of atomic energies from two layers on scalar features, for backbones without vectors."""

    kind = "invariant_energy"

    def __init__(self, n_scalar: int) -> None:
        super().__init__()
        self.atomic = two_layers(n_scalar, n_scalar, 1)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energies."""
        return sum_per_molecule(self.atomic(features.scalar)[:, 0].double(), batch)


class PooledEnergyHead(EnergyHead):
    r"""The pre-training energy of 3D-EMGP (Jiao et al., AAAI 2023): a function of the sum over atoms.

    .. math:: g = \sum_i \mathrm{MLP}_1(h_i), \qquad E = \mathrm{MLP}_2(g)

    It is not a sum of atomic energies: two molecules far apart do not have the sum of their energies. A
    :class:`SharedNoiseLevelHead` reads :math:`g` too.
    """

    kind = "pooled_energy"

    def __init__(self, n_scalar: int) -> None:
        super().__init__()
        self.atomic = two_layers(n_scalar, n_scalar, n_scalar)
        self.of_pool = two_layers(n_scalar, n_scalar, 1)

    def pool(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, "n_molecules n_scalar"]:
        """Return the features :math:`g` of each molecule."""
        return sum_per_molecule(self.atomic(features.scalar), batch)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the energies."""
        return self.of_pool(self.pool(features, batch))[:, 0].double()


class NoiseLevelHead(Head, ABC):
    r"""Which level of a noise ladder lies between a clean and a noisy molecule, told from the pooled features of both.

    .. math:: p = \mathrm{softmax}\,\mathrm{MLP}(g, \tilde g)

    3D-EMGP (Jiao et al., AAAI 2023). Where the features are pooled is what the two kinds differ in.
    """

    def __init__(self, n_pooled: int) -> None:
        super().__init__()
        self.levels = two_layers(2 * n_pooled, n_pooled, N_LEVELS)

    def forward(
        self, clean: Float[Tensor, "n_molecules n_pooled"], noisy: Float[Tensor, "n_molecules n_pooled"]
    ) -> Float[Tensor, "n_molecules n_levels"]:
        """Return the logits of the levels, from the pooled features of the clean and of the noisy molecule."""
        return self.levels(torch.cat([clean, noisy], dim=-1))


class SharedNoiseLevelHead(NoiseLevelHead):
    """Reads the pool of a :class:`PooledEnergyHead`, which must be there: the published form."""

    kind = "noise_level"


class PooledNoiseLevelHead(NoiseLevelHead):
    """Has a pool of its own, and so works beside any energy head: one in eV that is a sum over atoms, or none."""

    kind = "pooled_noise_level"

    def __init__(self, n_scalar: int) -> None:
        super().__init__(n_scalar)
        self.atomic = two_layers(n_scalar, n_scalar, n_scalar)

    def pool(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, "n_molecules n_scalar"]:
        """Return the features of each molecule: the sum over atoms of two layers."""
        return sum_per_molecule(self.atomic(features.scalar), batch)


class DistanceScoreHead(Head):
    r"""The score of a noised distance from the features of its two atoms, in units of the noise.

    .. math:: s_{ij} = \mathrm{MLP}_2\big(h_i + h_j,\; \mathrm{MLP}_1(\tilde d_{ij})\big)

    The head of SE(3)-DDM (Liu, Guo, Tang, ICLR 2023), symmetric in the two atoms.
    """

    kind = "distance_score"

    def __init__(self, n_scalar: int) -> None:
        super().__init__()
        self.of_distance = two_layers(1, n_scalar, 1)
        self.of_pair = two_layers(n_scalar + 1, n_scalar, 1)

    def forward(
        self, features: NodeFeatures, pairs: AtomPairs, distances: Float[Tensor, " n_pairs"]
    ) -> Float[Tensor, " n_pairs"]:
        """Return the scores, given noised distances in Å."""
        h = features.scalar
        pair = torch.cat([h[pairs.first] + h[pairs.second], self.of_distance(distances[:, None])], dim=-1)
        return self.of_pair(pair)[:, 0]


class NoiseHead(Head):
    """One vector per atom from two gated blocks (TorchMD-NET's ``VectorOutput``): a noise target in normalised units.

    The head owns the statistics that normalise its target, as in Zaidi et al. (ICLR 2023): they are part of what was
    learned, and whoever fine-tunes decides whether to keep them (``Model.reset_target_normalizer``).
    """

    kind = "noise"

    def __init__(self, n_scalar: int, n_vector: int) -> None:
        super().__init__()
        self.first = GatedEquivariantBlock(n_scalar, n_scalar // 2, n_vector=n_vector, activate=True)
        self.second = GatedEquivariantBlock(n_scalar // 2, 1, activate=False)
        self.normalizer = RunningNormalizer()

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, "n_atoms 3"]:
        """Return one vector per atom."""
        _, vector = self.second(*self.first(features.scalar, features.vector))
        return vector[..., 0]


def build_head(kind: HeadKind, backbone: Backbone) -> Head:
    """Return a fresh head for the features of a backbone.

    Raises:
        ValueError: the head needs vector features and the backbone has none.
    """
    n_scalar, n_vector = backbone.n_scalar, backbone.n_vector
    if n_vector == 0 and kind in ("gated_energy", "noise"):
        raise ValueError(
            f"{type(backbone).__name__} has no vector features, and the {kind} head needs them; choose an objective "
            "that asks for energies and forces only, or a backbone with vector features"
        )
    match kind:
        case "gated_energy":
            return AtomicEnergyHead(n_scalar, n_vector)
        case "invariant_energy":
            return InvariantEnergyHead(n_scalar)
        case "pooled_energy":
            return PooledEnergyHead(n_scalar)
        case "noise":
            return NoiseHead(n_scalar, n_vector)
        case "distance_score":
            return DistanceScoreHead(n_scalar)
        case "noise_level":
            return SharedNoiseLevelHead(n_scalar)
        case "pooled_noise_level":
            return PooledNoiseLevelHead(n_scalar)


def two_layers(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Return two linear maps with SiLU between them."""
    return nn.Sequential(Linear(n_in, n_hidden), nn.SiLU(), Linear(n_hidden, n_out))


class RunningNormalizer(ExactBuffers):
    r"""Standardise displacements by the mean and deviation of all that were ever seen in training.

    .. math:: t \mapsto (t - \mu) / s, \qquad \mu = \tfrac1n \sum t, \quad s = \sqrt{\tfrac1n \sum t^2 - \mu^2}

    per Cartesian component (Zaidi et al., ICLR 2023, ``AccumulatedNormalization``). Sums are float64 and, in
    distributed training, taken over all processes.
    """

    count: Tensor
    total: Tensor
    total_of_squares: Tensor

    MIN_DEVIATION = 1e-8

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("total_of_squares", torch.zeros(3, dtype=torch.float64))

    @property
    def deviation(self) -> Float[Tensor, "3"]:
        """Standard deviation per component, Å; 1 before anything was seen."""
        if self.count == 0:
            return torch.ones_like(self.total)
        mean = self.total / self.count
        return (self.total_of_squares / self.count - mean**2).clamp_min(0).sqrt().clamp_min(self.MIN_DEVIATION)

    @torch.no_grad()
    def update(self, displacement: Float[Tensor, "n_atoms 3"]) -> None:
        """Add displacements (Å) to the statistics."""
        double = displacement.double()
        sums = torch.cat([double.sum(0), double.square().sum(0), self.count.new_tensor([len(double)])])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        self.total += sums[:3]
        self.total_of_squares += sums[3:6]
        self.count += sums[6]

    def forward(self, displacement: Float[Tensor, "n_atoms 3"]) -> Float[Tensor, "n_atoms 3"]:
        """Return displacements in units of their deviation, minus their mean; the statistics stay as they are."""
        mean = self.total / self.count.clamp_min(1)
        return ((displacement.double() - mean) / self.deviation).to(displacement.dtype)

    def reset(self) -> None:
        """Forget everything."""
        for buffer in (self.count, self.total, self.total_of_squares):
            buffer.zero_()
