"""Predict the noise of each atom."""

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor

from basinet.backbones.base import NodeFeatures
from basinet.models.heads.base import GatedOutputs, Head
from basinet.nn.modules import ExactBuffers
from basinet.structures.batch import Batch


class NoiseHead(Head):
    """One vector per atom from two gated blocks (TorchMD-NET's ``VectorOutput``): a noise target in normalised units.

    The head owns the statistics that normalise its target, as in Zaidi et al. (ICLR 2023): they are part of what was
    learned. Fine-tuning keeps or resets them (``Model.reset_target_normalizer``).
    """

    kind = "noise"

    def __init__(self, n_scalar: int, n_vector: int) -> None:
        super().__init__()
        self.atoms = GatedOutputs(n_scalar, n_vector)
        self.normalizer = RunningNormalizer()

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, "n_atoms 3"]:
        """Return one vector per atom."""
        return self.atoms(features)[1]


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
