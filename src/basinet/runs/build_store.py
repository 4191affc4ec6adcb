"""``basinet data build``: files and stores of any kind, read one molecule at a time, become one store."""

from collections import Counter
from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

from basinet.config import dump_settings, settings
from basinet.data.build import Built, Input, OnProgress, write_store
from basinet.data.columns import PropertyColumn, property_units
from basinet.data.manifest import UNITS
from basinet.data.readers import located, open_molecules
from basinet.data.store import MoleculeStore
from basinet.recipe import UnitsConfig
from basinet.runs.properties import property_columns


@settings
class BuildRecipe:
    """Files and stores to read into one store."""

    data: tuple[Path, ...]
    """What to read: files of any known format, and stores."""
    units: UnitsConfig = UnitsConfig()
    """Units and keys of the files; stores have their own. property_key names the label as well as its column."""
    properties: tuple[str, ...] = ()
    """Further labels, one number a molecule, each as column:unit or label=column:unit, such as mu:D."""
    is_equilibrium: bool = False
    """Whether the geometries in the files are minima of the energy; stores say so themselves."""
    skip_invalid: bool = False
    """Leave out molecules that are not valid and count them; without it, the first one is an error."""

    def __post_init__(self) -> None:
        """Refuse what is no column, and perceiving bonds, which runs do for themselves."""
        self.columns(())
        if self.units.bonds != "auto":
            raise ValueError("units.bonds is an option of runs; a store keeps the bonds that its files have")

    def columns(self, of_file: Sequence[PropertyColumn]) -> tuple[PropertyColumn, ...]:
        """Return the columns to read from a file, after those that are given."""
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
    """One file or store, opened, with what a store of it must say."""

    input: Input
    level_of_theory: str
    units: dict[str, str]
    """Of labels other than energies and forces."""
    identity: dict[str, Any]
    """By which a resumed build knows its input again."""


def build(recipe: BuildRecipe, out: Path, on_progress: OnProgress | None = None) -> Built:
    """Read files and stores, in their order, into one store.

    Memory does not grow with the files. A build that was interrupted is resumed by the same call, which reads its
    inputs again up to where it stopped; until it is finished, nothing opens the store. If an input turns out to be
    damaged, the store is deleted. Records that gave no molecule are listed in ``skipped.csv`` in the store.

    Raises:
        ValueError: an input cannot be read, two inputs do not fit together, or ``out`` was begun with other inputs.
        FileExistsError: ``out`` is a finished store or something else.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose another path for the store")
    opened = [_open(path, recipe) for path in recipe.data]
    return write_store(
        [one.input for one in opened],
        out,
        level_of_theory=_joint_level(opened),
        source=", ".join(path.name for path in recipe.data),
        settings={
            "inputs": [one.identity for one in opened],
            **{k: v for k, v in dump_settings(recipe).items() if k != "data"},
        },
        units=_joint_units(opened),
        on_progress=on_progress,
    )


def _open(path: Path, recipe: BuildRecipe) -> OpenedFile:
    path = located(path)
    if path.is_dir():
        manifest = MoleculeStore.open(path).manifest
        molecules, report = open_molecules(path, skip_invalid=recipe.skip_invalid)
        units = {name: unit for name, unit in manifest.units.items() if name not in UNITS}
        identity = {"name": path.name, "fingerprint": manifest.fingerprint}
        return OpenedFile(Input(path, molecules, report), manifest.level_of_theory, units, identity)
    given = recipe.units
    columns = recipe.columns(property_columns(path, given, given.property_key))
    molecules, report = open_molecules(
        path,
        energy_unit=given.energy_unit,
        length_unit=given.length_unit,
        energy_key=given.energy_key,
        forces_key=given.forces_key,
        is_equilibrium=recipe.is_equilibrium,
        columns=columns,
        skip_invalid=recipe.skip_invalid,
    )
    with open(path, "rb") as file:
        identity = {"name": path.name, "sha256": file_digest(file, "sha256").hexdigest()}
    level = given.level_of_theory or report.level_of_theory
    return OpenedFile(Input(path, molecules, report), level, property_units(columns), identity)


def _joint_level(opened: Sequence[OpenedFile]) -> str:
    levels = {one.level_of_theory: one.input.path for one in opened}
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
                    f"{source.input.path}: {label!r} is in {unit}, but in {units[label]} in an input before"
                )
    return units
