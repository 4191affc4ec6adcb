"""Noise of many sizes: the way back as minus the gradient of an energy, and which size it was (3D-EMGP)."""

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from basinet.models.model import Model
from basinet.noise.base import Perturbation
from basinet.noise.ladder import N_LEVELS, NoiseLadder
from basinet.noise.riemannian import LadderNoise, RiemannianNoise, SuperposedNoise
from basinet.objectives.base import Objective
from basinet.objectives.combine import all_set, select_all_set
from basinet.structures.batch import Batch


class EnergyGradientDenoising(Objective):
    r"""Minus the gradient of the energy on a noisy molecule against the way back, in units of the noise.

    .. math:: L = \frac1B \sum_b \sum_{i \in b} \big\| -\nabla_i E(\tilde r) - t_i \big\|^2

    Summed over the atoms and components of a molecule and averaged over molecules, as in 3D-EMGP (Jiao et al., AAAI
    2023, "equivariant force prediction"): large molecules weigh more. The energy is not told the size of the noise, so
    the best gradient is the mean of the target over all sizes that may have led to the noisy molecule. It has no unit,
    so a run gives it the pooled energy of the paper, which nobody takes for one in eV.

    Args:
        perturbation: how molecules are noised.
    """

    requires = frozenset({"forces", "pooled_energy"})
    labels: frozenset[str] = frozenset()
    weights = {"gradient": 1.0}

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation
        self.flags: frozenset[str] = perturbation.flags

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that can be noised."""
        return all_set(batch, self.flags)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of molecules."""
        return {"gradient": float(select_all_set(batch, self.flags).n_molecules)}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over molecules, atoms and components."""
        batch = select_all_set(batch, self.flags)
        perturbed = self.perturbation(batch, generator)
        if batch.n_atoms == 0:
            return {"gradient": batch.positions.new_zeros(())}
        predicted = model(perturbed.batch, ["forces"])["forces"]
        return {"gradient": (predicted - perturbed.target).square().sum()}


class NoiseLevel(Objective):
    r"""The cross entropy of the level of the noise, told from the clean and the noisy molecule; mean over molecules.

    .. math:: L = -\frac1B \sum_b \log p_{k_b}(r_b, \tilde r_b)

    A model that knows nothing has :math:`\ln 50 = 3.912` ("invariant noise-scale prediction" of 3D-EMGP). The classes
    are levels without an order, as published. Two forward passes, clean and noisy, both with gradients.

    Args:
        perturbation: how molecules are noised; of a ladder with as many levels as the head tells apart.
    """

    requires = frozenset({"noise_level"})
    labels: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    weights = {"noise_level": 1.0}

    def __init__(self, perturbation: RiemannianNoise | LadderNoise | SuperposedNoise) -> None:
        _require_levels(perturbation.ladder)
        self.perturbation = perturbation

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return every molecule."""
        return torch.ones(batch.n_molecules, dtype=torch.bool, device=batch.molecule.device)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of molecules."""
        return {"noise_level": float(batch.n_molecules)}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over molecules."""
        perturbed = self.perturbation(batch, generator)
        if batch.n_molecules == 0:
            return {"noise_level": batch.positions.new_zeros(())}
        assert perturbed.level is not None
        logits = model.noise_level(batch, perturbed.batch)
        return {"noise_level": F.cross_entropy(logits, perturbed.level, reduction="sum")}


def _require_levels(ladder: NoiseLadder) -> None:
    if len(ladder) != N_LEVELS:
        raise ValueError(
            f"the head tells {N_LEVELS} levels of noise apart, and this ladder has {len(ladder)}; "
            f"use geometric_ladder(largest, smallest, {N_LEVELS})"
        )
