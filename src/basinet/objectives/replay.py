"""Learn minima beside the data of fine-tuning, so that a model keeps what it learned of them."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import Objective
from basinet.objectives.combine import WeightedSum, Where
from basinet.objectives.denoising import ForceDenoising
from basinet.objectives.supervised import ZeroForce
from basinet.structures.batch import Batch

T = TypeVar("T")

IS_REPLAY = "is_replay"
"""Flag of replayed molecules."""


def minima_to_keep(zero_force: float, denoising: float, sigma: float, temperature: float) -> Objective:
    """Return the objective of minima without labels: a vanishing force and, with a weight, the pull of ET-OREO.

    Args:
        zero_force: weight of the vanishing force.
        denoising: weight of the force that pulls a noisy molecule back; zero leaves it out.
        sigma: deviation of the noise, Å.
        temperature: K, of the spring that pulls.
    """
    parts: dict[str, tuple[float, Objective]] = {"zero_force": (zero_force, Where("is_equilibrium", ZeroForce()))}
    if denoising > 0:
        pull = ForceDenoising(CoordinateNoise(sigma), temperature)
        parts["denoising"] = (denoising, Where("is_equilibrium", pull))
    return WeightedSum(**parts)


class WithReplay(Objective):
    """An objective, and another for the molecules marked ``is_replay``; neither sees the molecules of the other.

    Terms of the second are called ``replay.`` and their name. The data of the run needs what the first needs.
    """

    def __init__(self, objective: Objective, replay: Objective) -> None:
        self.objective, self.replay = objective, replay
        self.requires = objective.requires | replay.requires
        self.labels, self.flags = objective.labels, objective.flags
        self.weights: Mapping[str, float] = {**objective.weights, **_renamed(replay.weights)}

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that either uses."""
        marked = batch.all_set([IS_REPLAY])
        return (self.objective.uses(batch) & ~marked) | (self.replay.uses(batch) & marked)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the counts of both."""
        marked = batch.all_set([IS_REPLAY])
        return {
            **self.objective.counts(batch.where(~marked)),
            **_renamed(self.replay.counts(batch.where(marked))),
        }

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums of both; one without molecules needs no pass and draws no noise."""
        marked = batch.all_set([IS_REPLAY])
        own, replayed = batch.where(~marked), batch.where(marked)
        zero = batch.positions.new_zeros(())
        first = dict.fromkeys(self.objective.weights, zero)
        second = dict.fromkeys(self.replay.weights, zero)
        if own.n_molecules or not replayed.n_molecules:
            first = self.objective.sums(model, own, generator)
        if replayed.n_molecules:
            second = self.replay.sums(model, replayed, generator)
        return {**first, **_renamed(second)}


def _renamed(terms: Mapping[str, T]) -> dict[str, T]:
    return {f"replay.{name}": value for name, value in terms.items()}
