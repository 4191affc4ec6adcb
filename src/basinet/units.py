"""The units of basinet, and the only place where a unit is converted.

Inside the package: energy eV, length Å, time fs, mass amu, charge e, temperature K, force eV/Å, angle radians.
Readers multiply by one of these constants once; nothing else converts. The values are CODATA 2018, written out so that
importing this module imports nothing.
"""

from types import MappingProxyType

HARTREE = 27.211386245988
"""Hartree in eV."""
BOHR = 0.529177210903
"""Bohr radius in Å."""
KCAL_PER_MOL = 0.0433641153087705
"""kcal/mol in eV (thermochemical calorie, 4.184 J)."""
KJ_PER_MOL = KCAL_PER_MOL / 4.184
"""kJ/mol in eV."""
MEV = 1e-3
"""meV in eV."""
BOLTZMANN = 8.617333262145e-5
"""Boltzmann constant in eV/K."""
ACCELERATION = 9.648533212331e-3
"""(eV/Å)/amu in Å/fs²: turns a force divided by a mass into an acceleration."""
DEBYE = 0.20819433442462576
"""Debye in e·Å."""

ENERGY = MappingProxyType(
    {"eV": 1.0, "meV": MEV, "Ha": HARTREE, "kcal/mol": KCAL_PER_MOL, "kJ/mol": KJ_PER_MOL},
)
"""Energy units a file may use, in eV."""
LENGTH = MappingProxyType({"Angstrom": 1.0, "bohr": BOHR, "nm": 10.0})
"""Length units a file may use, in Å."""


def energy_factor(unit: str) -> float:
    """Return how many eV one ``unit`` is."""
    return _factor(unit, ENERGY, "energy")


def length_factor(unit: str) -> float:
    """Return how many Å one ``unit`` is."""
    return _factor(unit, LENGTH, "length")


def _factor(unit: str, table: MappingProxyType[str, float], kind: str) -> float:
    try:
        return table[unit]
    except KeyError:
        raise ValueError(f"unknown {kind} unit {unit!r}; choose one of {', '.join(table)}") from None
