"""What a reader did: which keys and units it took, and how many molecules it found."""

from collections import Counter
from dataclasses import dataclass, field

from basinet.units import energy_factor, length_factor


@dataclass(kw_only=True)
class ReadReport:
    """Filled while a file is read; complete when its iterator is exhausted."""

    path: str
    energy_unit: str
    """Unit of the energies in the file; forces are in this per ``length_unit``."""
    length_unit: str
    n_molecules: int = 0
    energy_keys: Counter[str] = field(default_factory=Counter)
    """Molecules by the key their energy was read from."""
    forces_keys: Counter[str] = field(default_factory=Counter)
    """Molecules by the key their forces were read from."""

    properties: Counter[str] = field(default_factory=Counter)
    """Molecules by property, unit and key."""
    n_without: Counter[str] = field(default_factory=Counter)
    """Molecules whose column of a property is empty (NaN), by property."""

    def check_units(self) -> None:
        """Raise on a unit nobody knows, before anything is read."""
        energy_factor(self.energy_unit)
        length_factor(self.length_unit)

    def __str__(self) -> str:
        energies = _by_key(self.energy_keys) or "none"
        forces = _by_key(self.forces_keys) or "none"
        properties = "".join(f"; {count} {what}" for what, count in self.properties.items())
        properties += "".join(f"; {count} without {name}" for name, count in self.n_without.items())
        return (
            f"{self.path}: {self.n_molecules} molecules, lengths in {self.length_unit}; "
            f"energies ({self.energy_unit}): {energies}; forces ({self.energy_unit}/{self.length_unit}): {forces}"
            f"{properties}"
        )


def _by_key(keys: Counter[str]) -> str:
    return ", ".join(f"{count} from {key}" for key, count in keys.items())
