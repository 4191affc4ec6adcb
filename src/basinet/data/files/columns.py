"""Properties of molecules in files: one number a molecule, by the name of its column, converted once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from basinet.data.files.report import ReadReport, is_gradient
from basinet.structures import StructureError
from basinet.units import property_factor, property_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyColumn:
    """A property to read from a file."""

    name: str
    """Of the label."""
    key: str
    """Of the column: a key of the comment line (extxyz), a property of the record (SDF), an array (npz)."""
    unit: str
    """In the file, from :data:`basinet.units.PROPERTY`."""

    def __post_init__(self) -> None:
        """Refuse units nobody knows."""
        property_unit(self.unit)


def sign_of_forces(key: str) -> float:
    """Return -1 for an array that is called a gradient, which is minus the forces, and 1 for any other."""
    return -1.0 if is_gradient(key) else 1.0


def property_units(columns: Sequence[PropertyColumn]) -> dict[str, str]:
    """Return the unit that each property has after reading, by name."""
    return {column.name: property_unit(column.unit) for column in columns}


def read_properties(
    values: Mapping[str, Any], columns: Sequence[PropertyColumn], where: str, report: ReadReport
) -> dict[str, float]:
    """Return the properties of one molecule, converted; a NaN is no label, and the report counts it.

    Raises:
        StructureError: a column is not there (the message lists those that are), or holds no number.
    """
    labels: dict[str, float] = {}
    for column in columns:
        number = _number(values, column, where)
        if math.isnan(number):
            report.n_without[column.name] += 1
            continue
        report.properties[f"{column.name} ({column.unit}) from {column.key}"] += 1
        labels[column.name] = number * property_factor(column.unit)
    return labels


def _number(values: Mapping[str, Any], column: PropertyColumn, where: str) -> float:
    if column.key not in values:
        there = ", ".join(sorted(values)) or "none"
        raise StructureError(
            f"{where}: no column {column.key!r} for the property {column.name!r}; the columns there are: {there}"
        )
    try:
        return float(values[column.key])
    except (TypeError, ValueError):
        raise StructureError(
            f"{where}: {column.key!r} must be one number a molecule, got {values[column.key]!r}"
        ) from None
