"""Define objectives: named sums, the number of things each sums over, and their weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from basinet.models.model import Model
from basinet.structures.batch import Batch

NOTHING: frozenset[str] = frozenset()


class Objective(ABC):
    r"""A loss made of terms.

    .. math:: L = \sum_k w_k \, \frac{\sum_{\text{batches}} S_k}{\sum_{\text{batches}} n_k}

    A term :math:`k` is a sum :math:`S_k` over :math:`n_k` things (atoms, components, molecules), and the division comes
    last. So the loss of a batch does not depend on how it was cut into processes or accumulation steps, nor the weight
    of a term on what else is in the batch. The counts need no network and are known before the first forward pass.

    Objectives hold no parameters; they state what they need of the model and of the data, and a run refuses to start
    if it is not there.
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
        """Return the molecules that some term uses; a run draws only those."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """Return how many things each term sums over in this batch; zero where it does not apply."""

    @abstractmethod
    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum of each term over this batch, differentiable in the parameters of the model."""


class Term(Objective):
    """One term: its needs, the loss of the molecules that meet them, and the things it is averaged over.

    A subclass sets ``name``, what it needs and :meth:`loss`. Molecules without one of its labels or flags are left out,
    and a batch in which none is left gives zero.
    """

    name: str
    per: Literal["molecule", "atom", "component"] = "molecule"
    """Things over which the loss is averaged; for others, override :meth:`count`."""
    requires = NOTHING
    labels = NOTHING
    flags = NOTHING

    def __init_subclass__(cls) -> None:
        """Give the term a weight of one under its name."""
        super().__init_subclass__()
        if "name" in vars(cls):
            cls.weights = {cls.name: 1.0}

    @abstractmethod
    def loss(self, model: Model, batch: Batch, generator: torch.Generator) -> Float[Tensor, "*n"]:
        """Return the losses of molecules that all have what the term needs, of any shape; they are summed."""

    def idle(self, model: Model) -> None:
        """Do what :meth:`loss` does together with other processes, when this one has no molecule for it."""

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules with all labels and flags."""
        return batch.all_set(self.flags | {f"has_{label}" for label in self.labels})

    def count(self, batch: Batch) -> float:
        """Return how many things the loss of these molecules, which are all used, sums over."""
        match self.per:
            case "molecule":
                return float(batch.n_molecules)
            case "atom":
                return float(batch.n_atoms)
            case "component":
                return 3.0 * batch.n_atoms

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the count of the used molecules."""
        return {self.name: self.count(batch.where(self.uses(batch)))}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum over the used molecules."""
        used = batch.where(self.uses(batch))
        if used.n_molecules == 0:
            self.idle(model)
            return {self.name: batch.positions.new_zeros(())}
        return {self.name: self.loss(model, used, generator).sum().to(batch.positions.dtype)}


class LabelTerm(Term):
    """A term that compares a label with outputs of the model, which may belong to other (noisy) positions."""

    @abstractmethod
    def compare(self, model: Model, outputs: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, " n"]:
        """Return the losses of molecules that all have the label.

        Args:
            model: the source of the outputs.
            outputs: at least ``requires``, of these molecules.
            batch: their labels; its positions are not used.
        """

    def loss(self, model: Model, batch: Batch, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Return the losses of outputs on the positions of the batch."""
        return self.compare(model, model(batch, self.requires), batch)

    def labelled_sum(self, model: Model, outputs: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, ""]:
        """Return the sum over the molecules that have the label, given the outputs of all."""
        if not self.labels <= batch.labels.keys():
            return batch.positions.new_zeros(())
        used = self.uses(batch)
        if not bool(used.all()):
            rows = {batch.n_molecules: used, batch.n_atoms: used[batch.molecule]}
            outputs = {name: outputs[name][rows[len(outputs[name])]] for name in self.requires}
        # Without a label the sum stays zero in the graph: parameters then have a gradient of zero, not none.
        return self.compare(model, outputs, batch.where(used)).sum().to(batch.positions.dtype)


class Method(ABC):
    """Settings that build an objective; what its parts refuse is refused when the settings are made."""

    def __post_init__(self) -> None:
        """Build the objective once, so that wrong settings are reported early."""
        self.build()

    @abstractmethod
    def build(self) -> Objective:
        """Return the objective."""


def total_loss(objective: Objective, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> Tensor:
    """Return the weighted sum of the means; the counts may cover more than this batch, empty terms are left out."""
    terms = [objective.weights[k] * sums[k] / counts[k] for k in objective.weights if counts[k] > 0]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def mean_terms(sums: Mapping[str, Tensor | float], counts: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each term that applies."""
    return {key: float(sums[key]) / count for key, count in counts.items() if count > 0}


def check_declared(objective: Objective) -> None:
    """Check the needs and weights that an objective declares.

    Raises:
        ValueError: an attribute is missing or not what :class:`Objective` says; the message is one line.
    """
    name = type(objective).__name__
    for field in ("requires", "labels", "flags"):
        found = getattr(objective, field, None)
        if not isinstance(found, frozenset) or not all(isinstance(entry, str) for entry in found):
            raise ValueError(f"{name}.{field} is {_described(found)}, expected a frozenset of names")
    _check_numbers(f"{name}.weights", getattr(objective, "weights", None), None)


def check_returned(objective: Objective, model: Model, batch: Batch, generator: torch.Generator) -> None:
    """Compute an objective once and check what it returns.

    Raises:
        ValueError: a key, type or shape is not what :class:`Objective` says; the message is one line.
    """
    name = type(objective).__name__
    used = cast(object, objective.uses(batch))
    if not isinstance(used, Tensor) or used.dtype != torch.bool or used.shape != (batch.n_molecules,):
        raise ValueError(f"{name}.uses() is {_described(used)}, expected a bool tensor of shape [{batch.n_molecules}]")
    _check_numbers(f"{name}.counts()", objective.counts(batch), objective.weights)
    sums = _check_terms(f"{name}.sums()", objective.sums(model, batch, generator), objective.weights)
    for term, value in sums.items():
        if not isinstance(value, Tensor) or value.ndim > 0 or not value.is_floating_point():
            raise ValueError(
                f"{name}.sums(): {term!r} is {_described(value)}, expected a float tensor without dimensions "
                "(losses.sum())"
            )


def _check_numbers(where: str, found: object, expected: Mapping[str, float] | None) -> None:
    for term, value in _check_terms(where, found, expected).items():
        if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise ValueError(f"{where}: {term!r} is {_described(value)}, expected a number that is not negative")


def _check_terms(where: str, found: object, expected: Mapping[str, float] | None) -> Mapping[str, object]:
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} is {_described(found)}, expected a dict with a value for each term")
    if expected is not None and found.keys() != expected.keys():
        raise ValueError(f"{where} has the terms {sorted(found)}, expected those of weights: {sorted(expected)}")
    return found


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {list(value.shape)}"
    return f"{value!r} ({type(value).__name__})"
