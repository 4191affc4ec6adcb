"""Compute errors of energies and forces over a stream of batches.

Every error is a sum divided by a count, in float64, so the result does not depend on the division into batches. Papers
differ in the definition of a force error: here it is per Cartesian component, in eV/Å.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt64
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.units import energy_factor

Predict = Callable[[Batch], Mapping[str, Tensor]]
"""Returns ``energy`` [n_molecules], eV, ``forces`` [n_atoms, 3], eV/Å, or both."""

MAX_PARITY_SAMPLES = 4000
"""Points kept for a parity plot; more overlap in print."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Pairs of reference and prediction for a parity plot, eV or eV/Å."""

    reference: Float64[np.ndarray, " n_samples"]
    predicted: Float64[np.ndarray, " n_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors over all molecules that have the label; NaN where none has it."""

    n_molecules: int
    """Molecules seen."""
    n_energies: int
    """Molecules with a reference energy."""
    n_forces: int
    """Molecules with reference forces."""
    energy_mae: float
    """eV per molecule."""
    energy_rmse: float
    """eV per molecule."""
    energy_mae_per_atom: float
    """eV per atom: the mean over molecules of the error divided by the number of atoms."""
    energy_rmse_per_atom: float
    """eV per atom."""
    force_mae: float
    """eV/Å, mean over molecules' atoms and components alike."""
    force_rmse: float
    """eV/Å, root of the mean square over components."""
    force_cosine: float
    """Mean over atoms of the cosine of the angle between predicted and reference force ; atoms with
    zero reference force are skipped, a zero prediction counts as 0."""
    force_mae_by_element: Mapping[int, float]
    """eV/Å, by atomic number."""
    energy_parity: Parity
    """eV, total energies."""
    force_parity: Parity
    """eV/Å, single components."""


class ForceEnergyErrors:
    """Accumulates errors batch by batch.

    A quantity counts for a molecule if the predictions have it and the flag ``has_<quantity>`` of the batch is set;
    the counts in :class:`Errors` are those of such molecules.

    Args:
        max_parity: number of energies, and of force components, to keep for parity plots. The choice depends only
            on the order of the stream: the same evaluation keeps the same points for every model.
    """

    def __init__(self, max_parity: int = MAX_PARITY_SAMPLES) -> None:
        if max_parity < 0:
            raise ValueError(f"max_parity must be zero or positive, got {max_parity}")
        self.n_molecules = 0
        self._energy = _Sums()
        self._energy_per_atom = _Sums()
        self._force = _Sums()
        self._element = np.zeros((2, 128))
        """Sum of absolute component errors and number of components, by atomic number."""
        self._cosine = np.zeros(2)
        """Sum of cosines and number of atoms."""
        self._n_forces = 0
        self._energy_sample = _Sample(max_parity)
        self._force_sample = _Sample(max_parity)

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> None:
        """Add the errors of one batch."""
        if "energy" not in predictions and "forces" not in predictions:
            raise ValueError(f"predictions have no 'energy' and no 'forces', only {sorted(predictions)}")
        self.n_molecules += batch.n_molecules
        if "energy" in predictions and "energy" in batch.labels:
            self._add_energies(predictions["energy"], batch)
        if "forces" in predictions and "forces" in batch.labels:
            self._add_forces(predictions["forces"], batch)

    def compute(self) -> Errors:
        """Return the errors over everything added so far."""
        present = np.nonzero(self._element[1])[0]
        return Errors(
            n_molecules=self.n_molecules,
            n_energies=self._energy.count,
            n_forces=self._n_forces,
            energy_mae=self._energy.mae,
            energy_rmse=self._energy.rmse,
            energy_mae_per_atom=self._energy_per_atom.mae,
            energy_rmse_per_atom=self._energy_per_atom.rmse,
            force_mae=self._force.mae,
            force_rmse=self._force.rmse,
            force_cosine=_ratio(self._cosine[0], self._cosine[1]),
            force_mae_by_element={int(z): float(self._element[0, z] / self._element[1, z]) for z in present},
            energy_parity=self._energy_sample.parity(),
            force_parity=self._force_sample.parity(),
        )

    def _add_energies(self, predicted: Tensor, batch: Batch) -> None:
        keep = _labelled("energy", batch)
        prediction, reference = _pair("energy", predicted, batch, keep)
        self._energy.add(prediction - reference)
        self._energy_per_atom.add((prediction - reference) / batch.atoms_per_molecule[keep].cpu().numpy())
        self._energy_sample.add(reference, prediction)

    def _add_forces(self, predicted: Tensor, batch: Batch) -> None:
        has_forces = _labelled("forces", batch)
        atoms = has_forces[batch.molecule]
        prediction, reference = _pair("forces", predicted, batch, atoms)  # [n_labelled_atoms, 3]
        self._n_forces += int(has_forces.sum())
        self._force.add(prediction - reference)
        numbers = batch.atomic_numbers[atoms].cpu().numpy()
        self._element[0] += np.bincount(numbers, np.abs(prediction - reference).sum(axis=1), minlength=128)
        self._element[1] += 3 * np.bincount(numbers, minlength=128)
        self._cosine += _cosines(prediction, reference)
        self._force_sample.add(reference.ravel(), prediction.ravel())


def evaluate(predict: Predict, batches: Iterable[Batch], max_parity: int = MAX_PARITY_SAMPLES) -> Errors:
    """Return the errors of ``predict`` over a stream of batches.

    Example::

        errors = evaluate(lambda batch: model(batch, ("energy", "forces")), loader)
        print(f"{to_unit(errors.force_mae, 'meV'):.1f} meV/Å over {errors.n_forces} molecules")
    """
    errors = ForceEnergyErrors(max_parity)
    for batch in batches:
        errors.update(predict(batch), batch)
    return errors.compute()


def to_unit(value: float, unit: str) -> float:
    """Return an energy given in eV in another unit, for display; the same for a force, which stays per Å."""
    return value / energy_factor(unit)


class Spread(NamedTuple):
    """Mean and standard deviation over seeds."""

    mean: float
    std: float | None
    """Standard deviation of a sample (n - 1); ``None`` for one seed."""
    n: int


def over_seeds(values: Sequence[float]) -> Spread:
    """Return mean and spread of one number per seed."""
    if not values:
        raise ValueError("no values: expected one number per seed")
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


@dataclass(slots=True)
class _Sums:
    """Sums of absolute and squared errors."""

    absolute: float = 0.0
    squared: float = 0.0
    count: int = 0

    def add(self, error: Float64[np.ndarray, "..."]) -> None:
        """Add every element of ``error``."""
        self.absolute += float(np.abs(error).sum())
        self.squared += float(np.square(error).sum())
        self.count += error.size

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return _ratio(self.absolute, self.count)

    @property
    def rmse(self) -> float:
        """Root of the mean square error."""
        return math.sqrt(_ratio(self.squared, self.count))


@dataclass(slots=True)
class _Sample:
    """A uniform sample of a stream: the ``size`` elements whose places in the stream have the lowest hashes."""

    size: int
    seen: int = 0
    rank: UInt64[np.ndarray, " n_kept"] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    pairs: Float64[np.ndarray, "n_kept 2"] = field(default_factory=lambda: np.empty((0, 2)))

    def add(self, reference: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> None:
        """Add the next elements of the stream."""
        place = np.arange(self.seen, self.seen + len(reference), dtype=np.uint64)
        self.seen += len(reference)
        rank = np.concatenate([self.rank, _splitmix64(place)])
        pairs = np.concatenate([self.pairs, np.stack([reference, predicted], axis=1)])
        lowest = np.sort(np.argpartition(rank, self.size)[: self.size]) if len(rank) > self.size else slice(None)
        self.rank, self.pairs = rank[lowest], pairs[lowest]

    def parity(self) -> Parity:
        """Return the sample in the order of the stream."""
        return Parity(reference=self.pairs[:, 0].copy(), predicted=self.pairs[:, 1].copy())


def _splitmix64(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Mix 64 bits so that consecutive integers become uniform (Steele, Lea and Flood, OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _labelled(key: str, batch: Batch) -> Bool[Tensor, " n_molecules"]:
    flag = f"has_{key}"
    if flag not in batch.flags:
        raise ValueError(
            f"the batch has the label {key!r} but no flag {flag!r} for the molecules that have it; "
            "make batches with collate or a loader, which set it"
        )
    return batch.flags[flag]


def _pair(
    key: str, predicted: Tensor, batch: Batch, keep: Bool[Tensor, " rows"]
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    """Return prediction and reference of the labelled rows, as float64 arrays."""
    reference = batch.labels[key]
    if predicted.shape != reference.shape:
        raise ValueError(
            f"predicted {key} are {list(predicted.shape)}, expected {list(reference.shape)} like the labels"
        )
    prediction = predicted.detach()[keep].double().cpu().numpy()
    if not np.isfinite(prediction).all():
        ids = None if batch.ids is None else batch.ids.tolist()
        raise ValueError(
            f"predicted {key} are not finite in the batch of molecules {ids}; check their geometry and the model"
        )
    return prediction, reference[keep].double().cpu().numpy()


def _cosines(
    prediction: Float64[np.ndarray, "n_atoms 3"], reference: Float64[np.ndarray, "n_atoms 3"]
) -> Float64[np.ndarray, " 2"]:
    """Return the sum of the cosines between forces and the number of atoms that have a direction."""
    norm = np.linalg.norm(reference, axis=1)
    directed = norm > 0
    dot = (prediction * reference).sum(axis=1)[directed]
    length = (np.linalg.norm(prediction, axis=1) * norm)[directed]
    cosine = np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)
    return np.array([cosine.sum(), directed.sum()], dtype=np.float64)


def _ratio(total: float, count: int | float) -> float:
    return float(total / count) if count else math.nan
