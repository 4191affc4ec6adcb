"""Compute errors of a molecular property, and of baselines."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.units import REPORTED, property_factor

Predict = Callable[[Batch], Float[Tensor, " n_molecules"]]
"""Returns the property of each molecule, in its unit in the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyErrors:
    """Errors over all molecules that have the label; NaN if none has it."""

    name: str
    unit: str
    """Unit of all numbers here: the unit of the property in the package."""
    n_molecules: int
    """Molecules seen."""
    n_labelled: int
    """Molecules with the label."""
    mae: float
    rmse: float

    def numbers(self) -> dict[str, float | int | str]:
        """Return everything as plain values, the MAE also in the unit usual in publications."""
        return {
            "property": self.name,
            "unit": self.unit,
            "n_labelled": self.n_labelled,
            "mae": self.mae,
            "rmse": self.rmse,
            f"mae_{REPORTED[self.unit]}": to_reported(self.mae, self.unit),
        }

    def __str__(self) -> str:
        if not self.n_labelled:
            return f"no labels of {self.name} to compare with"
        rmse = describe_property_error(self.rmse, self.unit)
        mae = describe_property_error(self.mae, self.unit)
        return f"{self.name} MAE {mae}, RMSE {rmse} over {self.n_labelled} molecules"


def property_errors(predict: Predict, batches: Iterable[Batch], name: str, unit: str) -> PropertyErrors:
    """Return the errors of ``predict`` over a stream of batches.

    Raises:
        ValueError: a prediction is not finite.
    """
    absolute, squared, n_labelled, n_molecules = 0.0, 0.0, 0, 0
    for batch in batches:
        n_molecules += batch.n_molecules
        has = batch.flags.get(f"has_{name}")
        if has is None or not has.any():
            continue
        predicted = predict(batch).detach()[has].double()
        if not torch.isfinite(predicted).all():
            ids = None if batch.ids is None else batch.ids.tolist()
            raise ValueError(f"predicted {name} is not finite in the batch of molecules {ids}; check their geometry")
        error = predicted - batch.labels[name][has].double()
        absolute += float(error.abs().sum())
        squared += float(error.square().sum())
        n_labelled += len(error)
    mae, rmse = (absolute / n_labelled, math.sqrt(squared / n_labelled)) if n_labelled else (math.nan, math.nan)
    return PropertyErrors(name=name, unit=unit, n_molecules=n_molecules, n_labelled=n_labelled, mae=mae, rmse=rmse)


def to_reported(value: float, unit: str) -> float:
    """Convert a value from the unit of the package to the unit usual in publications."""
    return value / property_factor(REPORTED[unit])


def describe_property_error(value: float, unit: str) -> str:
    """Return an error with its unit, as text."""
    if REPORTED[unit] == unit:
        return f"{value:.4g}"
    return f"{to_reported(value, unit):.4g} {REPORTED[unit]} ({value:.4g} {unit})"


def describe_baselines(maes: Mapping[str, float], unit: str) -> str:
    """Return the errors of the baselines, as text."""
    texts = {"mean": "the mean label", "composition": "a number per element"}
    return ", ".join(f"{texts[kind]}: {describe_property_error(mae, unit)}" for kind, mae in maes.items())
