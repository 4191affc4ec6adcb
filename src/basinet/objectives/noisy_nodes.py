"""Learn a label of the molecule and the noise from one pass over a noisy molecule (Noisy Nodes)."""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.base import Perturbation, perturb
from basinet.objectives.base import LabelTerm, Objective
from basinet.objectives.denoising import Denoising, normalized_target
from basinet.structures.batch import Batch


class NoisyNodes(Objective):
    r"""A label predicted from a noisy molecule, and beside it the noise (Godwin et al., ICLR 2022).

    .. math:: L = L_\text{label}(\hat y(\tilde r), y) + w\,L_\text{denoising}(\hat t(\tilde r), t)

    As in the released code of Zaidi et al. (ICLR 2023): both terms see the same noisy molecule in one pass, and in
    evaluation the label is predicted from the clean one. The noise term is for the molecules that have the label.

    Args:
        labels: term of the label.
        perturbation: noise of the molecules.
        weight: of the noise term.
    """

    def __init__(self, labels: LabelTerm, perturbation: Perturbation, weight: float) -> None:
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of the noise must be positive and finite, got {weight}; leave it out instead")
        if "forces" in labels.requires:
            raise ValueError(
                "forces belong to the clean positions and mean nothing on noisy ones; learn them on clean positions "
                "and the noise beside them (objective.kind=frad_noisy_nodes)"
            )
        self._labels = labels
        self._denoising = Denoising(perturbation)
        self.requires = labels.requires | {"noise"}
        self.labels = labels.labels
        self.flags = labels.flags | perturbation.flags
        self.weights = {"labels": labels.weights[labels.name], "noise": weight}

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that have the label and can be noised."""
        return self._labels.uses(batch) & self._denoising.uses(batch)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the count of the label term, and the number of components of the noise."""
        used = batch.where(self.uses(batch))
        return {"labels": self._labels.count(used), "noise": self._denoising.count(used)}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums of both terms."""
        used = batch.where(self.uses(batch))
        if used.n_molecules == 0 or not model.training:
            labels = self._labels.sums(model, used, generator)[self._labels.name]
            return {"labels": labels, "noise": self._denoising.sums(model, used, generator)[self._denoising.name]}
        perturbed = perturb(self._denoising.perturbation, used, generator)
        target = normalized_target(model, perturbed)
        outputs = model(perturbed.batch, self.requires)
        labels = self._labels.compare(model, outputs, used).sum().to(batch.positions.dtype)
        return {"labels": labels, "noise": (outputs["noise"] - target).square().sum()}
