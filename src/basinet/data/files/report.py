"""Report what a reader did: keys, units, numbers of molecules, records skipped; and helpers that fill the report."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from basinet.data.files.options import PropertyColumn, Reading
from basinet.structures import Molecule, StructureError
from basinet.units import property_factor

_NUMBER = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?")


class SkippedRecord(NamedTuple):
    """A record that gave no molecule."""

    name: str
    """For example ``file.csv:17``."""
    reason: str


@dataclass(kw_only=True)
class ReadReport:
    """Counts of what was read; complete when the iterator over the molecules is exhausted."""

    path: str
    energy_unit: str = "eV"
    """Unit of the energies in the file; forces are in this per ``length_unit``."""
    length_unit: str = "Angstrom"
    n_molecules: int = 0
    energy_keys: Counter[str] = field(default_factory=Counter)
    """Number of molecules by the key of their energy."""
    forces_keys: Counter[str] = field(default_factory=Counter)
    """Number of molecules by the key of their forces."""

    properties: Counter[str] = field(default_factory=Counter)
    """Number of molecules by property, unit and key."""
    n_without: Counter[str] = field(default_factory=Counter)
    """Number of molecules without a value (NaN), by property."""

    level_of_theory: str = ""
    """Level of theory that the file states or its layout implies; empty if there is none, or in doubt."""
    skip_invalid: bool = False
    """Skip and count molecules that are not valid; otherwise the first one is an error."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of records that gave no molecule, by reason."""
    skipped_records: list[SkippedRecord] = field(default_factory=list)
    """Names and reasons of all of them."""

    notes: list[str] = field(default_factory=list)
    """Further lines for the user."""

    def skip(self, name: str, reason: str) -> None:
        """Count a record that gives no molecule."""
        self.skipped[reason] += 1
        self.skipped_records.append(SkippedRecord(name, reason))

    def forget_labels(self, labels: Iterable[str]) -> None:
        """Count the labels of one molecule less, which is skipped after they were read."""
        for label in labels:
            used = {"energy": self.energy_keys, "forces": self.forces_keys}.get(label, self.properties)
            used[next(key for key in used if used is not self.properties or key.startswith(f"{label} ("))] -= 1

    @classmethod
    def of(cls, path: Path, reading: Reading) -> "ReadReport":
        """Return the empty report of a file that is read with these options."""
        energy_unit, length_unit = reading.energy_unit or "eV", reading.length_unit or "Angstrom"
        return cls(path=str(path), energy_unit=energy_unit, length_unit=length_unit, skip_invalid=reading.skip_invalid)

    def __str__(self) -> str:
        energies = _by_key(self.energy_keys) or "none"
        forces = _by_key(self.forces_keys) or "none"
        properties = "".join(f"; {count} {what}" for what, count in self.properties.items())
        properties += "".join(f"; {count} without {name}" for name, count in self.n_without.items())
        skipped = "".join(f"; {count} skipped ({reason})" for reason, count in sorted(self.skipped.items()))
        return (
            f"{self.path}: {self.n_molecules} molecules, lengths in {self.length_unit}; "
            f"energies ({self.energy_unit}): {energies}; forces ({self.energy_unit}/{self.length_unit}): {forces}"
            f"{properties}{skipped}" + "".join(f"\n{note}" for note in self.notes)
        )


def valid(report: ReadReport, **fields: Any) -> Iterator[Molecule]:
    """Yield the molecule of a record; nothing if it is not valid and such records are skipped.

    Raises:
        StructureError: the molecule is not valid.
    """
    try:
        molecule = Molecule(**fields)
    except StructureError as error:
        if not report.skip_invalid:
            raise
        report.forget_labels(fields["labels"])
        name = str(fields["name"])
        report.skip(name, _NUMBER.sub("#", str(error).removeprefix(f"{name}: ")))
        return
    yield molecule


class Opened(NamedTuple):
    """An open file or store: molecules still to be read, and the report that fills as they are."""

    molecules: Iterator[Molecule]
    report: ReadReport


def counted(molecules: Iterator[Molecule], report: ReadReport) -> Opened:
    """Return molecules that are counted as they are read, and their report; no molecules are an error."""

    def each() -> Iterator[Molecule]:
        for molecule in molecules:
            report.n_molecules += 1
            yield molecule
        if report.n_molecules == 0:
            skipped = "".join(f"; {count} skipped ({reason})" for reason, count in report.skipped.items())
            raise ValueError(f"{report.path}: no molecules in it{skipped}")

    return Opened(each(), report)


def is_gradient(key: str) -> bool:
    """Return True for the key of a gradient of the energy: one named so, or with a minus before it."""
    return key.startswith("-") or "gradient" in key.lower()


def array_of(key: str) -> str:
    """Return the name of the array that a key stands for: ``-forces`` is an array ``forces`` that holds gradients."""
    return key.removeprefix("-")


def sign_of_forces(key: str) -> float:
    """Return -1 for the key of a gradient, which is minus the forces, and 1 for any other."""
    return -1.0 if is_gradient(key) else 1.0


def read_properties(
    values: Mapping[str, Any], columns: Sequence[PropertyColumn], name: str, report: ReadReport
) -> dict[str, float]:
    """Return the properties of one molecule, converted; a NaN is a missing label, which the report counts.

    Raises:
        StructureError: a column is not there (the message lists those that are), or holds no number.
    """
    labels: dict[str, float] = {}
    for column in columns:
        if column.key not in values:
            there = ", ".join(sorted(values)) or "none"
            raise StructureError(
                f"{name}: no column {column.key!r} for the property {column.name!r}; the columns there are: {there}"
            )
        number = number_of(values[column.key], column.key, name)
        if math.isnan(number):
            report.n_without[column.name] += 1
            continue
        report.properties[f"{column.name} ({column.unit}) from {column.key}"] += 1
        labels[column.name] = number * property_factor(column.unit)
    return labels


@contextmanager
def damaged_file(message: str, hint: str = "") -> Iterator[None]:
    """Raise whatever a library raises for a damaged file as a ``StructureError``: "message (reason)hint"."""
    try:
        yield
    except (StructureError, ImportError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StructureError(f"{message} ({reason}){hint}") from None


def number_of(value: Any, key: str, name: str) -> float:
    """Return a value of a record as a number.

    Raises:
        StructureError: it is not a number.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise StructureError(f"{name}: {key!r} must be one number, got {value!r}") from None


def _by_key(keys: Counter[str]) -> str:
    return ", ".join(f"{n} from {'minus ' if is_gradient(key) else ''}{array_of(key)}" for key, n in keys.items())
