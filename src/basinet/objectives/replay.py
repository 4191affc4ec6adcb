"""Minima beside the data of fine-tuning, so that a model keeps what it knew of them."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from basinet.models.model import Model
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import Objective
from basinet.objectives.combine import WeightedSum, Where, is_set
from basinet.objectives.denoising import ForceDenoising
from basinet.objectives.supervised import ZeroForce
from basinet.structures.batch import Batch

T = TypeVar("T")

IS_REPLAY = "is_replay"
"""Flag of molecules that are there to be remembered."""


def minima_to_keep(zero_force: float, denoising: float, sigma: float, temperature: float) -> Objective:
    """Return what is learned from minima without labels: a vanishing force and, if weighed, ET-OREO's pull back.

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

    Terms of the second are called ``replay.`` and their name. What the data of the run must have is what the first
    asks for.
    """

    def __init__(self, objective: Objective, replay: Objective) -> None:
        self.objective, self.replay = objective, replay
        self.requires = objective.requires | replay.requires
        self.labels, self.flags = objective.labels, objective.flags
        self.weights: Mapping[str, float] = {**objective.weights, **_renamed(replay.weights)}

    def uses(self, batch: Batch) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that either is for."""
        marked = is_set(batch, IS_REPLAY)
        return (self.objective.uses(batch) & ~marked) | (self.replay.uses(batch) & marked)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the counts of both."""
        own, replayed = _parts(batch)
        return {**self.objective.counts(own), **_renamed(self.replay.counts(replayed))}

    def sums(self, model: Model, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sums of both; one that no molecule is for needs no pass and draws no noise."""
        own, replayed = _parts(batch)
        zero = batch.positions.new_zeros(())
        first = dict.fromkeys(self.objective.weights, zero)
        second = dict.fromkeys(self.replay.weights, zero)
        if own.n_molecules or not replayed.n_molecules:
            first = self.objective.sums(model, own, generator)
        if replayed.n_molecules:
            second = self.replay.sums(model, replayed, generator)
        return {**first, **_renamed(second)}


def _parts(batch: Batch) -> tuple[Batch, Batch]:
    marked = is_set(batch, IS_REPLAY)
    return batch.select((~marked).nonzero()[:, 0]), batch.select(marked.nonzero()[:, 0])


def _renamed(terms: Mapping[str, T]) -> dict[str, T]:
    return {f"replay.{name}": value for name, value in terms.items()}
