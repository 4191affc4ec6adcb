"""Define perturbations: a clean batch in, a noisy batch and the way back out."""

from abc import ABC, abstractmethod
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from basinet.structures.batch import Batch


class Perturbed(NamedTuple):
    """A noisy batch and what a network should predict from it."""

    batch: Batch
    """Noisy positions; no labels: those belong to the clean positions."""
    target: Float[Tensor, "n_atoms 3"]
    """From the noisy position back to the clean one, in units of ``scale``: the sign of a force."""
    scale: Float[Tensor, " n_molecules"]
    """Standard deviation of the noise, Å."""
    level: Int[Tensor, " n_molecules"] | None
    """Index in the noise ladder; ``None`` if there is only one level."""


class Perturbation(ABC):
    """Noise for molecules, drawn on the device of the batch for all molecules at once."""

    flags: frozenset[str] = frozenset()
    """Flags a molecule must have set, such as ``has_rotors``; objectives leave the others out of their noise."""

    @abstractmethod
    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        """Return a noisy copy; the clean batch stays as it is and the same generator state gives the same noise."""


def perturb(perturbation: Perturbation, batch: Batch, generator: torch.Generator) -> Perturbed:
    """Return what a perturbation makes of a batch, with its types and shapes checked.

    Raises:
        ValueError: one of them is wrong.
    """
    name = type(perturbation).__name__
    found = cast(object, perturbation(batch, generator))  # of a plugin, whose types are not checked
    if not isinstance(found, Perturbed):
        raise ValueError(f"{name}() returned {type(found).__name__}, expected Perturbed(batch, target, scale, level)")
    if found.batch.n_atoms != batch.n_atoms:
        raise ValueError(f"{name}() returned {found.batch.n_atoms} atoms for {batch.n_atoms}, expected as many")
    for field, shape in (("target", (batch.n_atoms, 3)), ("scale", (batch.n_molecules,))):
        value: object = getattr(found, field)
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}() returned {field}={value!r}, expected a tensor of shape {list(shape)}")
        if value.shape != shape:
            raise ValueError(f"{name}() returned {field} of shape {list(value.shape)}, expected {list(shape)}")
    return found
