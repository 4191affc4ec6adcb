"""Units, and their conversion, which is done nowhere else.

Inside the package: energy eV, length Å, time fs, mass amu, charge e, temperature K, force eV/Å, angle radians; and so
dipole moment e Å, polarisability Å³, electronic spatial extent Å², heat capacity eV/K.
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
HBAR = 0.6582119569509066
"""Reduced Planck constant in eV fs."""
WAVENUMBER = 1.2398419843320026e-4
"""1/cm in eV: the quantum of a vibration of this wavenumber."""
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
CALORIE_PER_MOL_KELVIN = KCAL_PER_MOL / 1000
"""cal/(mol K) in eV/K."""
PROPERTY = MappingProxyType(
    {
        **{unit: ("eV", factor) for unit, factor in ENERGY.items()},
        "e*Angstrom": ("e*Angstrom", 1.0),
        "D": ("e*Angstrom", DEBYE),
        "e*bohr": ("e*Angstrom", BOHR),
        "Angstrom^2": ("Angstrom^2", 1.0),
        "bohr^2": ("Angstrom^2", BOHR**2),
        "Angstrom^3": ("Angstrom^3", 1.0),
        "bohr^3": ("Angstrom^3", BOHR**3),
        "eV/K": ("eV/K", 1.0),
        "cal/mol/K": ("eV/K", CALORIE_PER_MOL_KELVIN),
        "J/mol/K": ("eV/K", KJ_PER_MOL / 1000),
        "1": ("1", 1.0),
    }
)
"""Units the property of a molecule may have in a file: the unit it has in the package, and the factor to it. ``1`` is
a number without a unit, or one in a unit that basinet need not know."""
REPORTED = MappingProxyType(
    {"eV": "meV", "e*Angstrom": "D", "Angstrom^2": "bohr^2", "Angstrom^3": "bohr^3", "eV/K": "cal/mol/K", "1": "1"}
)
"""The unit in which the field reports the errors of a property, by its unit in the package."""


def energy_factor(unit: str) -> float:
    """Return how many eV one ``unit`` is."""
    return _factor(unit, ENERGY, "energy")


def length_factor(unit: str) -> float:
    """Return how many Å one ``unit`` is."""
    return _factor(unit, LENGTH, "length")


def property_unit(unit: str) -> str:
    """Return the unit that a property given in ``unit`` has in the package."""
    return _of_property(unit)[0]


def property_factor(unit: str) -> float:
    """Return how many :func:`property_unit` one ``unit`` is."""
    return _of_property(unit)[1]


def _of_property(unit: str) -> tuple[str, float]:
    try:
        return PROPERTY[unit]
    except KeyError:
        raise ValueError(
            f"unknown unit {unit!r} of a property; choose one of {', '.join(PROPERTY)} (1: without a unit)"
        ) from None


def _factor(unit: str, table: MappingProxyType[str, float], kind: str) -> float:
    try:
        return table[unit]
    except KeyError:
        raise ValueError(f"unknown {kind} unit {unit!r}; choose one of {', '.join(table)}") from None
