"""Combine objectives."""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from basinet.models.model import Model
from basinet.objectives.base import Objective
from basinet.structures.batch import Batch


class WeightedSum(Objective):
    """Several objectives at once, each with a weight: ``WeightedSum(forces=(1.0, Forces()), denoise=(0.1, ...))``.

    The term of a part with one term has the name of the part; terms of a larger part are ``part.term``. Noise is drawn
    in the order of the parts.
    """

    def __init__(self, **parts: tuple[float, Objective]) -> None:
        if not parts:
            raise ValueError("an objective needs at least one part")
        for name, (weight, _) in parts.items():
            if not 0 < weight < math.inf:
                raise ValueError(
                    f"the weight of {name} must be positive and finite, got {weight}; leave the part out instead"
                )
        self.parts = {name: part for name, (_, part) in parts.items()}
        self.requires = frozenset().union(*(part.requires for part in self.parts.values()))
        self.labels = frozenset().union(*(part.labels for part in self.parts.values()))
        self.flags = frozenset().union(*(part.flags for part in self.parts.values()))
        self.weights = {
            self._name(name, term): weight * part.weights[term]
            for name, (weight, part) in parts.items()
            for term in part.weights
        }

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that any part uses."""
        return torch.stack([part.uses(batch) for part in self.parts.values()]).any(0)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the counts of all parts."""
        return {self._name(n, term): c for n, part in self.parts.items() for term, c in part.counts(batch).items()}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums of all parts."""
        return {
            self._name(n, term): s
            for n, part in self.parts.items()
            for term, s in part.sums(model, batch, generator).items()
        }

    def _name(self, part: str, term: str) -> str:
        return part if len(self.parts[part].weights) == 1 else f"{part}.{term}"


class Where(Objective):
    """An objective for the molecules that have a flag set."""

    def __init__(self, flag: str, objective: Objective) -> None:
        self.flag = flag
        self.objective = objective
        self.requires = objective.requires
        self.labels = objective.labels
        self.flags = objective.flags | {flag}
        self.weights = objective.weights

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the flagged molecules that the objective uses."""
        return batch.all_set([self.flag]) & self.objective.uses(batch)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the counts over the flagged molecules."""
        return self.objective.counts(batch.where(batch.all_set([self.flag])))

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums over the flagged molecules."""
        return self.objective.sums(model, batch.where(batch.all_set([self.flag])), generator)
