"""Objectives made of objectives."""

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from basinet.models.model import Model
from basinet.objectives.base import Objective
from basinet.structures.batch import Batch


class WeightedSum(Objective):
    """Several objectives at once, each with a weight: ``WeightedSum(forces=(1.0, Forces()), denoise=(0.1, ...))``.

    The terms of a part that has only one are called by the name of the part, those of a larger one ``part.term``.
    """

    def __init__(self, **parts: tuple[float, Objective]) -> None:
        if not parts:
            raise ValueError("an objective needs at least one part")
        for name, (weight, _) in parts.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"the weight of {name} must be positive, got {weight}; leave the part out instead")
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
        """Return the molecules that any part is for."""
        return torch.stack([part.uses(batch) for part in self.parts.values()]).any(0)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the counts of all parts."""
        return {self._name(n, term): c for n, part in self.parts.items() for term, c in part.counts(batch).items()}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums of all parts, drawn from the generator in the order they were given."""
        return {
            self._name(n, term): s
            for n, part in self.parts.items()
            for term, s in part.sums(model, batch, generator).items()
        }

    def _name(self, part: str, term: str) -> str:
        return part if len(self.parts[part].weights) == 1 else f"{part}.{term}"


class Where(Objective):
    """An objective for the molecules that have a flag set; the others do not reach it."""

    def __init__(self, flag: str, objective: Objective) -> None:
        self.flag = flag
        self.objective = objective
        self.requires = objective.requires
        self.labels = objective.labels
        self.flags = objective.flags | {flag}
        self.weights: Mapping[str, float] = objective.weights

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the flagged molecules that the objective is for."""
        return is_set(batch, self.flag) & self.objective.uses(batch)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the counts over the flagged molecules."""
        return self.objective.counts(self._select(batch))

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums over the flagged molecules."""
        return self.objective.sums(model, self._select(batch), generator)

    def _select(self, batch: Batch) -> Batch:
        return select_where(batch, self.flag)


def is_set(batch: Batch, flag: str) -> Bool[Tensor, " n_molecules"]:
    """Return which molecules have a flag set; a flag the batch does not know is set nowhere."""
    none = torch.zeros(batch.n_molecules, dtype=torch.bool, device=batch.molecule.device)
    return batch.flags.get(flag, none)


def select_where(batch: Batch, flag: str) -> Batch:
    """Return the molecules that have a flag set."""
    chosen = is_set(batch, flag)
    return batch if bool(chosen.all()) else batch.select(chosen.nonzero()[:, 0])


def all_set(batch: Batch, flags: Iterable[str]) -> Bool[Tensor, " n_molecules"]:
    """Return which molecules have all flags set; without flags, every molecule."""
    chosen = torch.ones(batch.n_molecules, dtype=torch.bool, device=batch.molecule.device)
    for flag in flags:
        chosen = chosen & is_set(batch, flag)
    return chosen


def select_all_set(batch: Batch, flags: Iterable[str]) -> Batch:
    """Return the molecules that have all flags set."""
    for flag in flags:
        batch = select_where(batch, flag)
    return batch
