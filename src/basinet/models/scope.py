"""Record what a model was trained on, and refuse molecules unlike that."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Int64

from basinet.structures.batch import Batch
from basinet.structures.molecule import Molecule


class Scope(NamedTuple):
    """Elements, charges, sizes and level of theory that a model was trained on."""

    elements: frozenset[int]
    """Atomic numbers; empty: any (nothing trained yet)."""
    level_of_theory: str
    """Level of theory of the last training labels, as the data named it; "" without labels."""
    charges: frozenset[int] = frozenset()
    """Total charges, e; empty: unknown (nothing trained yet, or a file of a basinet that did not record them)."""
    sizes: tuple[int, int] | None = None
    """Atoms of the smallest and of the largest molecule; ``None``: unknown."""

    def check(self, batch: Batch) -> None:
        """Raise a ``ValueError`` if the batch has elements the model was never trained on."""
        found = self._unknown_elements(batch.atomic_numbers.unique().tolist())
        if found:
            raise ValueError(
                f"the model knows the elements {symbols(self.elements)}, the data also has {symbols(found)}; "
                "leave those molecules out, or pre-train it further on data that has them (basinet pretrain from=...)"
            )

    def outside(self, atomic_numbers: Int64[np.ndarray, " n_atoms"], charge: int) -> list[str]:
        """Return the differences of a molecule from those the model was trained on, in words.

        Args:
            atomic_numbers: Elements of the molecule.
            charge: Total charge, e.
        """
        reasons: list[str] = []
        if found := self._unknown_elements(np.unique(atomic_numbers).tolist()):
            reasons.append(f"elements {symbols(found)}, the model knows {symbols(self.elements)}")
        if self.charges and charge not in self.charges:
            known = ", ".join(f"{q:+d}" if q else "0" for q in sorted(self.charges))
            reasons.append(f"charge {charge:+d}, the model knows {known}")
        n_atoms = len(atomic_numbers)
        if self.sizes is not None and not self.sizes[0] <= n_atoms <= self.sizes[1]:
            reasons.append(f"{n_atoms} atoms, the model knows {self.sizes[0]} to {self.sizes[1]}")
        return reasons

    def check_molecule(self, molecule: Molecule) -> None:
        """Raise a ``ValueError`` if a molecule is unlike those the model was trained on."""
        if reasons := self.outside(molecule.atomic_numbers, molecule.charge):
            raise OutsideScopeError(molecule.name or molecule.formula, reasons)

    def extended(self, elements: Iterable[int], charges: Iterable[int], sizes: tuple[int, int]) -> "Scope":
        """Return the scope of a model that is trained on further molecules; what was unknown stays so."""
        fresh = self == Scope(frozenset(), self.level_of_theory)
        known = frozenset(charges) if fresh or self.charges else frozenset[int]()
        low, high = sizes
        joined = (low, high) if fresh else None
        if self.sizes is not None:
            joined = min(low, self.sizes[0]), max(high, self.sizes[1])
        return self._replace(elements=self.elements | frozenset(elements), charges=self.charges | known, sizes=joined)

    def _unknown_elements(self, atomic_numbers: Iterable[int]) -> list[int]:
        return sorted(set(atomic_numbers) - self.elements) if self.elements else []


class OutsideScopeError(ValueError):
    """A molecule is unlike those a model was trained on.

    Args:
        name: Name of the molecule.
        reasons: Differences, from :meth:`Scope.outside`.
    """

    def __init__(self, name: str, reasons: list[str]) -> None:
        super().__init__(
            f"{name} is outside of what the model was trained on: {'; '.join(reasons)}. The prediction would be a "
            'guess; to get it with a warning use --outside-scope warn (in Python outside_scope="warn")'
        )
        self.reasons = reasons


def symbols(atomic_numbers: Iterable[int]) -> str:
    """Return the symbols of elements, by atomic number."""
    return " ".join(chemical_symbols[z] for z in sorted(atomic_numbers))


ANYTHING = Scope(frozenset(), "")
"""The scope of a model that has not been trained."""
