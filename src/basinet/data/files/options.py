"""Options of reading: units, keys and columns of a file, and what to do with records that are not valid."""

from collections.abc import Sequence
from dataclasses import dataclass

from basinet.units import energy_factor, length_factor, property_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyColumn:
    """A property to read from a file, one number a molecule."""

    name: str
    """Name of the label."""
    key: str
    """Name of the column: a key of the comment line (extxyz), a property of the record (SDF), an array (npz)."""
    unit: str
    """Unit in the file, from :data:`basinet.units.PROPERTY`."""

    def __post_init__(self) -> None:
        """Refuse unknown units."""
        property_unit(self.unit)


def property_units(columns: Sequence[PropertyColumn]) -> dict[str, str]:
    """Return the unit of each property after reading, by name."""
    return {column.name: property_unit(column.unit) for column in columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Options for reading a file of molecules; a store has units, keys and flags of its own."""

    energy_unit: str | None = None
    """Unit of the energies, and with ``length_unit`` of the forces. ``None``: the unit of the format, or eV; an .npz
    with energies needs one."""
    length_unit: str | None = None
    """Unit of the positions. ``None``: the unit of the format, or Å."""
    energy_key: str | None = None
    """Name of the energies. ``None``: the usual names, in the order of ``docs/conventions.md``."""
    forces_key: str | None = None
    """Name of the forces, with a minus before it if they are gradients. ``None``: the usual names."""
    columns: tuple[PropertyColumn, ...] = ()
    """Further properties. With them, an .npz gives only those energies and forces that are named."""
    level_of_theory: str = ""
    """Level of theory of the labels, for the manifest of a store. Empty: the level that the file states."""
    is_equilibrium: bool = False
    """Mark all geometries as minima of the energy."""
    skip_invalid: bool = False
    """Skip and count molecules that are not valid (two atoms at one place, an infinite label); otherwise the first one
    is an error."""
    processes: int = 1
    """Processes that make conformers from SMILES. A script that asks for more than one must do so under
    ``if __name__ == "__main__":``."""

    def __post_init__(self) -> None:
        """Refuse unknown units."""
        energy_factor(self.energy_unit or "eV")
        length_factor(self.length_unit or "Angstrom")


AS_WRITTEN = Reading()
"""Units and keys of the format."""
