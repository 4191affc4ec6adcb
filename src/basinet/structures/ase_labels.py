"""Read the charge and labels of ASE's atoms."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms

from basinet.errors import StructureError

ENERGY_KEYS = ("REF_energy", "energy", "total_energy")
"""Keys of an energy, in order of preference; ASE moves ``energy`` of a comment line into its calculator. The last is
that of ISO17."""
FORCES_KEYS = ("REF_forces", "forces", "atomic_forces")
CHARGE_KEY = "charge"
SMILES_KEY = "smiles"
WHOLE = 1e-3
"""e. Rounded charges of atoms may differ from a whole number by this much in total."""


def charge_of(atoms: Atoms, name: str) -> int:
    """Return the total charge (e): ``charge`` in ``info``, or the sum of the initial charges.

    Raises:
        StructureError: it is not a whole number.
    """
    charge = plain_values(atoms.info).get(CHARGE_KEY)
    if charge is None:
        return _sum_of_charges(atoms, name)
    whole = isinstance(charge, int | float | np.integer | np.floating) and math.isfinite(charge)
    if not whole or charge != round(charge):
        raise StructureError(f"{name}: {CHARGE_KEY} must be a whole number (e), got {charge!r}")
    return int(charge)


def smiles_of(atoms: Atoms) -> str:
    """Return the SMILES in ``info``; "" if there is none."""
    return str(plain_values(atoms.info).get(SMILES_KEY, ""))


def labels_of(atoms: Atoms, name: str) -> dict[str, Any]:
    """Return energy (eV) and forces (eV/Å) of the first key that the atoms have; nothing is computed."""
    labels: dict[str, Any] = {}
    # A calculator keeps the results of the positions it saw last, which may not be these.
    results = {} if atoms.calc is None or atoms.calc.check_state(atoms) else atoms.calc.results
    of_molecule, of_atoms = plain_values({**atoms.info, **results}), {**atoms.arrays, **results}
    if key := next((key for key in ENERGY_KEYS if key in of_molecule), None):
        labels["energy"] = _as_number(of_molecule[key], key, name)
    if key := next((key for key in FORCES_KEYS if key in of_atoms), None):
        labels["forces"] = as_forces(of_atoms[key], name)
    return labels


def plain_values(info: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the bare words of a comment such as "lowest energy found", which ASE reads as ``energy=True``."""
    return {key: value for key, value in info.items() if not isinstance(value, bool | np.bool_)}


def as_forces(value: Any, name: str) -> np.ndarray:
    """Return forces as an array.

    Raises:
        StructureError: they are not numbers.
    """
    rows = np.asarray(value)
    if rows.dtype.kind not in "fiu":
        raise StructureError(f"{name}: forces must be three numbers an atom, got {rows.dtype} values")
    return rows.astype(np.float64)


def _as_number(value: Any, key: str, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise StructureError(f"{name}: {key!r} must be one number, got {value!r}") from None


def _sum_of_charges(atoms: Atoms, name: str) -> int:
    total = float(np.sum(atoms.arrays.get("initial_charges", 0.0)))
    if not math.isfinite(total) or abs(total - round(total)) > WHOLE:
        raise StructureError(f"{name}: the initial charges of the atoms add up to {total:g} e, not a whole number")
    return round(total)
