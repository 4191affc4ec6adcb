"""Recognise the units that files name, in the spellings of other programs."""

import re
from typing import NamedTuple

from basinet.units import energy_factor, length_factor

ENERGY_SPELLINGS = {
    **dict.fromkeys(("ev", "electronvolt", "electronvolts"), "eV"),
    "mev": "meV",
    **dict.fromkeys(("ha", "hartree", "hartrees", "eh", "au", "a.u.", "a.u", "atomicunits", "atomicunit"), "Ha"),
    **dict.fromkeys(("kcal/mol", "kcalmol-1", "kcal/mole", "kcalmol", "kcalpermol", "kcal"), "kcal/mol"),
    **dict.fromkeys(("kj/mol", "kjmol-1", "kj/mole", "kjmol", "kjpermol", "kj"), "kJ/mol"),
}
"""Unit of energy by its spelling in small letters, without blanks."""
LENGTH_SPELLINGS = {
    **dict.fromkeys(("angstrom", "angstroms", "ang", "a", "\u00e5", "\u00e5ngstr\u00f6m", "angstr\u00f6m"), "Angstrom"),
    **dict.fromkeys(("bohr", "bohrs", "a0", "au", "a.u.", "a.u", "atomicunits", "atomicunit", "bohrradius"), "bohr"),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), "nm"),
}
SYSTEMS = {
    **dict.fromkeys(("metal", "ase"), ("eV", "Angstrom")),
    "real": ("kcal/mol", "Angstrom"),
    **dict.fromkeys(("au", "a.u.", "a.u", "atomic", "atomicunits", "electron"), ("Ha", "bohr")),
}
"""Units of energy and length by the name of a system of units."""
_BLANK = re.compile(r"[\s_*^()·]")


class ForceUnit(NamedTuple):
    """A unit of forces."""

    energy: str
    length: str

    @property
    def factor(self) -> float:
        """How many eV/Å it is."""
        return energy_factor(self.energy) / length_factor(self.length)


def energy_unit_named(text: str) -> str | None:
    """Return the unit of energy of a spelling; ``None`` for one that is not known.

    >>> energy_unit_named("Hartree"), energy_unit_named("kcal mol^-1"), energy_unit_named("Ry")
    ('Ha', 'kcal/mol', None)
    """
    return None if text.strip() == "MeV" else ENERGY_SPELLINGS.get(_plain(text))


def length_unit_named(text: str) -> str | None:
    """Return the unit of length of a spelling; ``None`` for one that is not known.

    >>> length_unit_named("Ang"), length_unit_named("Bohr"), length_unit_named("pm")
    ('Angstrom', 'bohr', None)
    """
    return LENGTH_SPELLINGS.get(_plain(text))


def force_unit_named(text: str) -> ForceUnit | None:
    """Return the unit of forces of a spelling; ``None`` for one that is not known.

    >>> force_unit_named("kcal/mol/Ang")
    ForceUnit(energy='kcal/mol', length='Angstrom')
    """
    plain = _plain(text)
    if plain in ("au", "a.u.", "a.u", "atomicunits"):
        return ForceUnit("Ha", "bohr")
    plain = re.sub(r"^(kcal|kj)/mol(?=[abn\u00e5])", r"\1/mol/", plain)  # kcal/(mol Å)
    energy, _, length = plain.rpartition("/")
    units = ENERGY_SPELLINGS.get(energy), LENGTH_SPELLINGS.get(length)
    return None if units[0] is None or units[1] is None else ForceUnit(units[0], units[1])


def system_named(text: str) -> tuple[str, str] | None:
    """Return the units of energy and length of a system of units, such as ``metal`` of LAMMPS."""
    return SYSTEMS.get(_plain(text))


def _plain(text: str) -> str:
    return _BLANK.sub("", text.replace("\u212b", "\u00c5").strip().lower()).replace("**", "")
