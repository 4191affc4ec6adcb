"""Hold many molecules in one record of tensors."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from basinet.structures.batch_topology import BatchTopology, Runs, collate_topology
from basinet.structures.molecule import Molecule

MOLECULE_LABELS = frozenset({"energy"})
"""Labels known to be one number per molecule."""
ATOM_LABELS = frozenset({"forces"})
"""Labels known to be one row per atom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Molecules laid end to end, atoms sorted by molecule.

    Energies are float64 whatever the dtype of the positions: float32 cannot resolve the total energy of a molecule.
    Labels that some molecules of the batch lack are filled with NaN, and the flag ``has_<label>`` says which ones have
    it; an objective reads the flag, never the value.
    """

    atomic_numbers: Int[Tensor, " n_atoms"]
    positions: Float[Tensor, "n_atoms 3"]
    """Å."""
    molecule: Int[Tensor, " n_atoms"]
    """The molecule each atom belongs to, ascending."""
    n_molecules: int
    labels: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    """``energy`` [n_molecules] float64 eV, ``forces`` [n_atoms, 3] eV/Å, further properties by name."""
    flags: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    """``is_equilibrium``, ``has_energy``, ``has_forces``, ``has_bonds``, ``has_rotors`` ...: [n_molecules] bool."""
    ids: Int[Tensor, " n_molecules"] | None = None
    """Index of each molecule in the store or list it came from, for reports."""
    topology: BatchTopology | None = None
    """The bond graph; ``None`` if no molecule of the source has bonds on record."""

    @classmethod
    def from_molecules(cls, molecules: Sequence[Molecule], dtype: torch.dtype = torch.float32) -> "Batch":
        """Lay molecules end to end; see :func:`collate`."""
        return collate(molecules, dtype)

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the batch."""
        return self.atomic_numbers.shape[0]

    @property
    def atoms_per_molecule(self) -> Int[Tensor, " n_molecules"]:
        """Number of atoms of each molecule."""
        return torch.bincount(self.molecule, minlength=self.n_molecules)

    @property
    def first_atom(self) -> Int[Tensor, " n_molecules"]:
        """Index of the first atom of each molecule."""
        count = self.atoms_per_molecule
        return torch.cumsum(count, 0) - count

    def replace(self, **changes: Any) -> "Batch":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def without_labels(self) -> "Batch":
        """Return a copy whose labels are dropped: they do not belong to any other positions."""
        has = {key: value for key, value in self.flags.items() if not key.startswith("has_")}
        return self.replace(labels={}, flags=has)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Batch":
        """Move every tensor to ``device``; cast positions and per-atom labels, but never energies, to ``dtype``."""
        labels = {
            key: value.to(device=device, dtype=dtype if self._is_per_atom(key, value) else None)
            for key, value in self.labels.items()
        }
        return self.replace(
            atomic_numbers=self.atomic_numbers.to(device),
            positions=self.positions.to(device=device, dtype=dtype),
            molecule=self.molecule.to(device),
            labels=labels,
            flags={key: value.to(device) for key, value in self.flags.items()},
            ids=None if self.ids is None else self.ids.to(device),
            topology=None if self.topology is None else self.topology.to(device),
        )

    def select(self, keep: Sequence[int] | Int[Tensor, " n_kept"]) -> "Batch":
        """Return the batch of the given molecules, in the given order."""
        index = torch.as_tensor(keep, dtype=torch.int64, device=self.molecule.device)
        count = self.atoms_per_molecule
        atoms, molecule, _ = Runs.of(count, index)
        labels = {
            key: value[atoms] if self._is_per_atom(key, value) else value[index] for key, value in self.labels.items()
        }
        return Batch(
            atomic_numbers=self.atomic_numbers[atoms],
            positions=self.positions[atoms],
            molecule=molecule,
            n_molecules=len(index),
            labels=labels,
            flags={key: value[index] for key, value in self.flags.items()},
            ids=None if self.ids is None else self.ids[index],
            topology=None if self.topology is None else self.topology.select(index, self.molecule, count),
        )

    def all_set(self, flags: Iterable[str]) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules that have all flags set; a flag the batch does not know is set nowhere."""
        chosen = torch.ones(self.n_molecules, dtype=torch.bool, device=self.molecule.device)
        for flag in flags:
            chosen = chosen & self.flags.get(flag, torch.zeros_like(chosen))
        return chosen

    def where(self, chosen: Bool[Tensor, " n_molecules"]) -> "Batch":
        """Return the chosen molecules; this very batch if they are all."""
        return self if bool(chosen.all()) else self.select(chosen.nonzero()[:, 0])

    def split(self, sizes: Sequence[int]) -> Iterator["Batch"]:
        """Yield consecutive batches of ``sizes`` molecules, which add up to all; their tensors are views."""
        atom_ends = torch.cat([self.molecule.new_zeros(1), torch.cumsum(self.atoms_per_molecule, 0)])
        ends = [0, *np.cumsum(sizes).tolist()]
        first_atoms = atom_ends[torch.tensor(ends)].tolist()
        topologies = None if self.topology is None else self.topology.split(ends, first_atoms)
        for i, size in enumerate(sizes):
            molecules, atoms = slice(ends[i], ends[i + 1]), slice(first_atoms[i], first_atoms[i + 1])
            yield Batch(
                atomic_numbers=self.atomic_numbers[atoms],
                positions=self.positions[atoms],
                molecule=self.molecule[atoms] - ends[i],
                n_molecules=size,
                labels={k: v[atoms if self._is_per_atom(k, v) else molecules] for k, v in self.labels.items()},
                flags={key: value[molecules] for key, value in self.flags.items()},
                ids=None if self.ids is None else self.ids[molecules],
                topology=None if topologies is None else next(topologies),
            )

    def _is_per_atom(self, key: str, value: Tensor) -> bool:
        return key in ATOM_LABELS or (key not in MOLECULE_LABELS and value.shape[0] == self.n_atoms)


def collate(molecules: Sequence[Molecule], dtype: torch.dtype = torch.float32) -> Batch:
    """Lay molecules end to end, centred on their mean position in float64 before the cast to ``dtype``.

    Raises:
        ValueError: there are no molecules, or a label is per molecule in one and per atom in another.
    """
    if not molecules:
        raise ValueError("cannot make a batch of no molecules")
    counts = [m.n_atoms for m in molecules]
    labels, flags = _collate_labels(molecules, dtype)
    topology = collate_topology(molecules)
    if topology is not None:
        flags |= {"has_bonds": topology.has_bonds, "has_rotors": topology.has_rotors}
    return Batch(
        atomic_numbers=torch.from_numpy(np.concatenate([m.atomic_numbers for m in molecules])),
        positions=torch.from_numpy(np.concatenate([m.positions - m.positions.mean(0) for m in molecules])).to(dtype),
        molecule=torch.repeat_interleave(torch.arange(len(molecules)), torch.tensor(counts)),
        n_molecules=len(molecules),
        labels=labels,
        flags=flags,
        ids=torch.arange(len(molecules)),
        topology=topology,
    )


def _collate_labels(molecules: Sequence[Molecule], dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    flags = {"is_equilibrium": torch.tensor([m.is_equilibrium for m in molecules])}
    labels: dict[str, Tensor] = {}
    for key in sorted({key for m in molecules for key in m.labels}):
        _check_shapes(key, molecules)
        rows: list[Tensor] = []
        for m in molecules:
            value = np.asarray(m.labels[key]) if key in m.labels else _missing(key, m, molecules)
            rows.append(torch.tensor(value, dtype=torch.float64))  # a copy: the array may be read-only
        per_atom = rows[0].ndim > 0
        labels[key] = torch.cat(rows).to(dtype) if per_atom else torch.stack(rows)
        flags[f"has_{key}"] = torch.tensor([key in m.labels for m in molecules])
    return labels, flags


def _check_shapes(key: str, molecules: Sequence[Molecule]) -> None:
    """Raise a ``ValueError`` unless a label has the same rows wherever it is."""
    seen: dict[tuple[str, tuple[int, ...]], Molecule] = {}
    for m in molecules:
        if key in m.labels:
            shape = np.shape(m.labels[key])
            seen.setdefault(("per atom", shape[1:]) if shape else ("per molecule", ()), m)
    if len(seen) > 1:
        found = " and ".join(
            f"{per} with rows of shape {list(shape)} in {m.name or m.formula}" for (per, shape), m in seen.items()
        )
        raise ValueError(f"label {key!r} is {found}; give the two properties different names")


def _missing(key: str, molecule: Molecule, molecules: Sequence[Molecule]) -> np.ndarray:
    """Return NaNs in the shape that ``key`` has where it is present."""
    present = next(np.asarray(m.labels[key]) for m in molecules if key in m.labels)
    return np.full((molecule.n_atoms, *present.shape[1:]) if present.ndim else (), np.nan)


def unbatch(values: Float[Tensor, " n_atoms *rest"], batch: Batch) -> list[Float[Tensor, " _ *rest"]]:
    """Split a per-atom tensor into one tensor per molecule."""
    return list(torch.split(values, batch.atoms_per_molecule.tolist()))
