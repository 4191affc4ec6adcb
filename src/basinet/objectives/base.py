"""What an objective is: named sums, how many things each sums over, and how they are weighed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from basinet.models.model import Model
from basinet.structures.batch import Batch


class Objective(ABC):
    r"""What is compared with what.

    .. math:: L = \sum_k w_k \, \frac{\sum_{\text{batches}} S_k}{\sum_{\text{batches}} n_k}

    A term :math:`k` is a sum :math:`S_k` over :math:`n_k` things (atoms, components, molecules), and the division comes
    last. So the loss of a batch does not depend on how it was cut into processes or accumulation steps, nor the weight
    of a term on what else is in the batch. The counts need no network and are known before the first forward pass.

    Objectives hold no parameters; they say what they need of the model and of the data, and a run refuses to start if
    it is not there.
    """

    requires: frozenset[str]
    """Outputs of the model, from :data:`basinet.models.model.OUTPUTS`."""
    labels: frozenset[str]
    """Labels at least one molecule of the data must have."""
    flags: frozenset[str]
    """Flags at least one molecule of the data must have set."""
    weights: Mapping[str, float]
    """Weight of each term, by name."""

    @abstractmethod
    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return which molecules some term is for; a run draws only those."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """Return how many things each term sums over in this batch; zero where it does not apply."""

    @abstractmethod
    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum of each term over this batch, differentiable in the parameters of the model."""


class LabelObjective(Objective):
    """One term about a label of the molecule, whose outputs somebody else may compute: on noisy positions, say."""

    @abstractmethod
    def compare(self, model: Model, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the sum over a batch of molecules that all have the label.

        Args:
            model: that gave the outputs.
            outputs: at least ``requires``, of these molecules.
            batch: their labels; its positions are not looked at.
        """


def total_loss(objective: Objective, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> Tensor:
    """Return the weighted sum of the means; the counts may cover more than this batch, empty terms are left out."""
    terms = [objective.weights[k] * sums[k] / counts[k] for k in objective.weights if counts[k] > 0]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def mean_terms(sums: Mapping[str, Tensor | float], counts: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each term that applies."""
    return {key: float(sums[key]) / count for key, count in counts.items() if count > 0}
