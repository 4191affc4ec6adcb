"""What a perturbation is: a clean batch in, a noisy batch and the way back out."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from basinet.structures.batch import Batch


class Perturbed(NamedTuple):
    """A noisy batch and what a network should say about it. Clean and noisy positions are never confused."""

    batch: Batch
    """Noisy positions; no labels: those belong to the clean positions."""
    target: Float[Tensor, "n_atoms 3"]
    """From the noisy position back to the clean one, in units of ``scale``: the sign of a force."""
    scale: Float[Tensor, " n_molecules"]
    """Standard deviation of the noise, Å."""
    level: Int[Tensor, " n_molecules"] | None
    """Index in the noise ladder; ``None`` if there is only one level."""


class Perturbation(ABC):
    """A way to noise molecules. It runs on the device of the batch, over all molecules at once."""

    flags: frozenset[str] = frozenset()
    """Flags a molecule must have set, such as ``has_rotors``; objectives leave the others out of their noise."""

    @abstractmethod
    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy; the clean batch stays as it is and the same generator state gives the same noise."""
