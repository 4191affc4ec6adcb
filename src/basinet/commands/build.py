"""Build one store from files and stores (``basinet data build``), one molecule at a time."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

from basinet.commands.recipe import UnitsConfig, property_columns
from basinet.config import Count, dump_settings, settings
from basinet.data.chemistry.perception import Perceiver, with_perceived_bonds
from basinet.data.files.build import Built, OnProgress, write_store
from basinet.data.files.options import PropertyColumn, Reading, property_units
from basinet.data.files.report import Opened, ReadReport
from basinet.data.readers import locate, open_molecules
from basinet.data.store.manifest import UNITS
from basinet.data.store.store import MoleculeStore
from basinet.data.workers import available_cores
from basinet.structures import Molecule

NOT_KEPT = frozenset({"data", "processes"})
"""Options that the store does not record: inputs are recorded by their hashes, and processes change nothing."""


@settings
class BuildRecipe:
    """Files and stores to read into one store."""

    data: tuple[Path, ...]
    """Files of any known format, and stores."""
    units: UnitsConfig = UnitsConfig()
    """Units and keys of the files; stores have their own. property_key names the label and its column."""
    properties: tuple[str, ...] = ()
    """Further labels, one number per molecule, each as column:unit or label=column:unit, such as mu:D."""
    is_equilibrium: bool = False
    """The geometries in the files are minima of the energy; stores have their own flags."""
    skip_invalid: bool = False
    """Skip and count invalid molecules; otherwise the first one is an error."""
    perceive_bonds: bool = False
    """Perceive bonds where there are none and store them, so that runs need not perceive them again."""
    processes: Count | None = None
    """Processes that make conformers from SMILES; null: one for each core. They do not change the store."""

    def __post_init__(self) -> None:
        """Check the columns and the bonds."""
        self.columns(())
        if self.units.bonds != "auto":
            raise ValueError("units.bonds is an option of runs; to find bonds for a store, give perceive_bonds=true")

    def columns(self, of_file: Sequence[PropertyColumn]) -> tuple[PropertyColumn, ...]:
        """Return the columns to read from a file, ``of_file`` first."""
        columns = (*of_file, *map(_column, self.properties))
        if twice := [name for name, count in Counter(c.name for c in columns).items() if count > 1]:
            raise ValueError(
                f"the label {twice[0]!r} is asked for twice; give one of them another name: label=column:unit"
            )
        return columns


def _column(text: str) -> PropertyColumn:
    name, equals, rest = text.partition("=")
    key, colon, unit = (rest if equals else text).rpartition(":")
    if not (colon and key and unit and (name or not equals)):
        raise ValueError(f"properties must be column:unit or label=column:unit, got {text!r}")
    return PropertyColumn(name=name if equals else key, key=key, unit=unit)


class OpenedFile(NamedTuple):
    """One opened file or store, with entries of the manifest."""

    input: Opened
    level_of_theory: str
    units: dict[str, str]
    """Units of labels other than energies and forces."""
    identity: dict[str, Any]
    """Identifies the input of a resumed build."""


def build(recipe: BuildRecipe, out: Path, on_progress: OnProgress | None = None) -> Built:
    """Read files and stores, in their order, into one store.

    Memory does not grow with the files. An interrupted build is resumed by the same call, which reads its inputs again
    up to where it stopped; the store cannot be opened before it is finished. If an input is damaged, the store is
    deleted. Records without a molecule are listed in ``skipped.csv`` in the store.

    Raises:
        ValueError: an input cannot be read, two inputs do not fit together, or ``out`` was begun with other inputs.
        FileExistsError: ``out`` is a finished store or something else.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose another path for the store")
    opened = [_open(path, recipe) for path in recipe.data]
    inputs = [one.input for one in opened]
    if recipe.perceive_bonds:
        inputs = [i._replace(molecules=_bonded(i.molecules, i.report)) for i in inputs]
    return write_store(
        inputs,
        out,
        level_of_theory=_joint_level(opened),
        source=", ".join(path.name for path in recipe.data),
        settings={
            "inputs": [one.identity for one in opened],
            **{k: v for k, v in dump_settings(recipe).items() if k not in NOT_KEPT},
        },
        units=_joint_units(opened),
        on_progress=on_progress,
    )


def _bonded(molecules: Iterator[Molecule], report: ReadReport) -> Iterator[Molecule]:
    perceiver = Perceiver()
    yield from with_perceived_bonds(molecules, perceiver)
    report.notes.append(str(perceiver.report))


def _open(path: Path, recipe: BuildRecipe) -> OpenedFile:
    path = locate(path)
    if path.is_dir():
        manifest = MoleculeStore.open(path).manifest
        opened = open_molecules(path, Reading(skip_invalid=recipe.skip_invalid))
        units = {name: unit for name, unit in manifest.units.items() if name not in UNITS}
        identity = {"name": path.name, "fingerprint": manifest.fingerprint}
        return OpenedFile(opened, manifest.level_of_theory, units, identity)
    given = recipe.units
    columns = recipe.columns(property_columns(path, given, given.property_key))
    reading = dataclasses.replace(
        given.reading(columns),
        is_equilibrium=recipe.is_equilibrium,
        skip_invalid=recipe.skip_invalid,
        processes=recipe.processes or available_cores(),
    )
    opened = open_molecules(path, reading)
    with open(path, "rb") as file:
        identity = {"name": path.name, "sha256": file_digest(file, "sha256").hexdigest()}
    level = given.level_of_theory or opened.report.level_of_theory
    return OpenedFile(opened, level, property_units(columns), identity)


def _joint_level(opened: Sequence[OpenedFile]) -> str:
    levels = {one.level_of_theory: one.input.report.path for one in opened}
    if len(levels) > 1:
        found = ", ".join(f"{path}: {level or 'not on record'}" for level, path in levels.items())
        raise ValueError(
            f"a store holds labels of one level of theory, got {found}; build several stores, or name the level of "
            "files that do not say it: units.level_of_theory=..."
        )
    return next(iter(levels))


def _joint_units(opened: Sequence[OpenedFile]) -> dict[str, str]:
    units: dict[str, str] = {}
    for source in opened:
        for label, unit in source.units.items():
            if units.setdefault(label, unit) != unit:
                raise ValueError(
                    f"{source.input.report.path}: {label!r} is in {unit}, but in {units[label]} in an input before"
                )
    return units
