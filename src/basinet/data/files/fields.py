"""Decide about the fields of a record that are not read by name: used, refused, or listed in the report.

A field that changes the meaning of a molecule is used (charge, units) or refused (a cell, a spin state that is not the
lowest). Masses, fixed atoms and momenta change no energy: the report names them, as it names every other field.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from ase.data import atomic_masses

from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport
from basinet.data.files.unit_names import (
    ForceUnit,
    energy_unit_named,
    force_unit_named,
    length_unit_named,
    system_named,
)
from basinet.structures import StructureError
from basinet.structures.total_charge import is_charge, plain_name
from basinet.units import ENERGY, LENGTH, energy_factor, length_factor

Role = Literal[
    "charge",
    "multiplicity",
    "unpaired",
    "spin",
    "moments",
    "periodic",
    "cell",
    "masses",
    "fixed",
    "momenta",
    "energy unit",
    "length unit",
    "force unit",
    "unit",
]
"""Meaning of a field that is not a label."""
ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("multiplicity", "spinmultiplicity", "mult", "totalspinmultiplicity"), "multiplicity"),
    **dict.fromkeys(("uhf", "nunpaired", "unpairedelectrons", "nunpairedelectrons", "numunpaired"), "unpaired"),
    **dict.fromkeys(("spin", "totalspin", "spinstate", "twospin"), "spin"),
    **dict.fromkeys(("initialmagmoms", "initialmagneticmoments"), "moments"),
    **dict.fromkeys(("pbc", "periodic", "periodicity"), "periodic"),
    **dict.fromkeys(
        ("cell", "cells", "lattice", "lattices", "unitcell", "latticevectors", "box", "boxvectors"), "cell"
    ),
    **dict.fromkeys(("mass", "masses", "atomicmasses", "isotope", "isotopes", "massnumbers"), "masses"),
    **dict.fromkeys(("constraints", "constraint", "fixed", "fixedatoms", "frozen", "frozenatoms", "movemask"), "fixed"),
    **dict.fromkeys(("momenta", "momentum", "velocities", "velocity", "velo"), "momenta"),
}
"""Meaning by name, as :func:`plain_name` writes it."""
ENERGY_WORDS = frozenset({"energy", "energies", "e", "totalenergy"})
LENGTH_WORDS = frozenset({"length", "distance", "position", "positions", "coordinate", "coordinates", "coord", "r"})
FORCE_WORDS = frozenset({"force", "forces", "f", "gradient", "gradients"})
STANDARD = 0.05
"""amu. Masses nearer than this to the mean of the element are those of no isotope."""
SPIN_WORDS = {"singlet": 1, "doublet": 2, "triplet": 3, "quartet": 4, "quintet": 5}
_UNIT = re.compile("units?(?:of)?(.*)|(.*?)units?")


def role_of(key: str) -> Role | None:
    """Return the meaning of a field by its name; ``None`` for any other field."""
    name = plain_name(key)
    if is_charge(key):
        return "charge"
    if name in ROLES:
        return ROLES[name]
    if (match := _UNIT.fullmatch(name)) is None:
        return None
    of = match[1] or match[2] or ""
    words: tuple[tuple[Collection[str], Role], ...]
    words = ((ENERGY_WORDS, "energy unit"), (LENGTH_WORDS, "length unit"), (FORCE_WORDS, "force unit"), ({""}, "unit"))
    return next((role for known, role in words if of in known), None)


def take_units(values: Mapping[str, Any], name: str, report: ReadReport, reading: Reading) -> None:
    """Put the units that a record or file states into the report; those that the user gave win.

    Raises:
        StructureError: a unit is not known, or contradicts the forces or the records before.
    """
    energy, length, force = _units(values, name)
    if reading.energy_unit is None and energy is not None:
        _change(report, "energy_unit", energy, name)
    if reading.length_unit is None and length is not None:
        _change(report, "length_unit", length, name)
    if force is not None and reading.energy_unit is None and reading.length_unit is None:
        if energy is None:
            _change(report, "energy_unit", force.energy, name)
        ours = energy_factor(report.energy_unit) / length_factor(report.length_unit)
        if abs(force.factor / ours - 1) > 1e-6:
            raise StructureError(
                f"{name}: the forces are in {force.energy}/{force.length}, and energies and positions in "
                f"{report.energy_unit} and {report.length_unit}; write the forces in {report.energy_unit}/"
                f"{report.length_unit}, or give units.energy_unit and units.length_unit if the file is wrong"
            )
    report.n_records += 1


def _change(report: ReadReport, which: Literal["energy_unit", "length_unit"], unit: str, name: str) -> None:
    before = getattr(report, which)
    if before != unit and report.n_records:
        raise StructureError(
            f"{name}: its {which.replace('_', ' ')} is {unit}, and {before} in the records before; write all in one"
        )
    setattr(report, which, unit)


def _units(values: Mapping[str, Any], name: str) -> tuple[str | None, str | None, ForceUnit | None]:
    energy: str | None = None
    length: str | None = None
    force: ForceUnit | None = None
    for key, value in values.items():
        role, text = role_of(key), _text(value)
        if not text or role not in ("energy unit", "length unit", "force unit", "unit"):
            continue
        parts = [part.strip() for part in text.split(",")]
        for part in parts:
            found: object = None
            if role == "unit" and (system := system_named(part)) is not None:
                found = (energy, length) = system
            elif role in ("energy unit", "unit") and (unit := energy_unit_named(part)) is not None:
                found = energy = unit
            elif role in ("length unit", "unit") and (unit := length_unit_named(part)) is not None:
                found = length = unit
            elif role in ("force unit", "unit") and (of_forces := force_unit_named(part)) is not None:
                found = force = of_forces
            if found is None and len(parts) == 1:  # a list has units of other things too
                raise StructureError(
                    f"{name}: {key} is {text!r}, which basinet does not know; if you know it, give units.energy_unit "
                    f"({', '.join(ENERGY)}) or units.length_unit ({', '.join(LENGTH)}), and leave {key} out of the file"
                )
    return energy, length, force


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value.strip() if isinstance(value, str) else ""


def spin_refusal(values: Mapping[str, Any], atomic_numbers: np.ndarray, charge: int, name: str) -> str:
    """Return why the spin state of a molecule is refused: it is not the lowest; empty if there is nothing to refuse.

    A model knows no spin, so it takes molecules with no or one unpaired electron. Single atoms are references.
    """
    if len(atomic_numbers) < 2:
        return ""
    odd = (int(np.sum(atomic_numbers)) - charge) % 2
    for key, value in values.items():
        role = role_of(key)
        if role not in ("multiplicity", "unpaired", "spin", "moments") or isinstance(value, bool | np.bool_):
            continue
        number = _spin(value, role)
        if number is None:
            continue
        lowest = {"multiplicity": {1 + odd}, "spin": {1, 2, 0.5} if odd else {0, 1}}.get(role, {odd})
        if number not in lowest:
            return (
                f"{name}: {key} is {value if np.ndim(value) == 0 else f'{number:g} in all'}, but the molecule has an "
                f"{'odd' if odd else 'even'} number of electrons with charge {charge:+d}, and basinet takes the lowest "
                f"spin state only (multiplicity {1 + odd}); leave it out, or correct the charge"
            )
    return ""


def _spin(value: Any, role: Role) -> float | None:
    """Return a spin as a number, or the sum of the moments of the atoms; ``None`` for something else."""
    if role == "moments":
        return float(abs(round(float(np.sum(value)))))
    if np.size(value) != 1:
        return None
    text = _text(value).lower()
    try:
        number = SPIN_WORDS.get(text) or float(np.asarray(value).reshape(-1)[0])
    except (TypeError, ValueError):
        return None
    return None if np.isnan(number) else number


def refuse_periodic(values: Mapping[str, Any], name: str) -> None:
    """Refuse a cell, unless the same record says that it is not periodic.

    Raises:
        StructureError: it is periodic, or has a cell and does not say whether.
    """
    periodic = {key: value for key, value in values.items() if role_of(key) == "periodic"}
    cells = {key: value for key, value in values.items() if role_of(key) == "cell"}
    found = [key for key, value in periodic.items() if _any(value)]
    found = found or ([] if periodic else [key for key, value in cells.items() if _any(value)])
    if found:
        raise StructureError(
            f"{name}: {found[0]} says that it is periodic, and basinet treats molecules only; if these are molecules "
            f"without a cell, remove {found[0]}"
        )


def note_unused(
    values: Mapping[str, Any], atomic_numbers: np.ndarray, report: ReadReport, used: Collection[str] = ()
) -> None:
    """Count the fields of a record that are not used; those that may be labels are remembered as such."""
    for key, value in values.items():
        if key in used or value is None:
            continue
        match role_of(key):
            case None:
                report.leave_unused(key, _label_kind(key, value, len(atomic_numbers)))
            case "masses" if _isotopes(value, atomic_numbers):
                report.leave_unused(f"{key} (masses of isotopes; the energy does not depend on them)")
            case "fixed" if _any(value) != (plain_name(key) == "movemask" and bool(np.all(value))):
                report.leave_unused(f"{key} (no atom is fixed)")
            case "momenta" if _any(value):
                report.leave_unused(f"{key} (atoms start anew)")
            case _:
                pass


def _label_kind(key: str, value: Any, n_atoms: int) -> Literal["energy", "forces", ""]:
    """Return what an unused field may be, by name and shape."""
    name = plain_name(key)
    is_number = isinstance(value, int | float | np.number | np.ndarray) and not isinstance(value, bool)
    if is_number and np.size(value) == 1 and ("energ" in name or name in ("e", "u0", "etot")):
        return "energy"
    if np.shape(value) == (n_atoms, 3) and ("forc" in name or "grad" in name or name in ("f", "frc", "dedr")):
        return "forces"
    return ""


def _isotopes(value: Any, atomic_numbers: np.ndarray) -> bool:
    try:
        masses = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return True
    if len(masses) != len(atomic_numbers):
        return False
    given = np.isfinite(masses) & (masses != 0)
    known = atomic_masses[np.clip(atomic_numbers, 0, len(atomic_masses) - 1)]
    return bool((np.abs(masses - known) > STANDARD)[given].any())


def _any(value: Any) -> bool:
    """Return whether a field says something: a number but 0, a text but no, a list with entries."""
    if isinstance(value, str | bytes):
        return _text(value).lower() not in ("", "f", "false", "no", "none", "f f f", "0", "[]", "{}")
    if isinstance(value, list | tuple | dict) and any(isinstance(v, dict | str) for v in value):
        return any(_any(v) for v in value) if all(isinstance(v, str) for v in value) else True
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return bool((np.nan_to_num(array) != 0).any())
    return bool(array.any()) if array.dtype.kind in "biu" else bool(array.size)
