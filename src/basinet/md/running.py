"""Compute observables while a simulation runs, in constant memory, and those of a reference trajectory.

Definitions are those of Fu et al., "Forces are not Enough" (TMLR 2023); see :mod:`basinet.md.observables`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from basinet.md.bonds import Bonds, bond_lengths, largest_deviation, reference_bonds
from basinet.md.dynamics import MDState, Observer, Record
from basinet.md.observables import HISTOGRAM_BINS, count_distances, normalised
from basinet.structures import Molecule
from basinet.structures.batch import Batch
from basinet.structures.geometry import best_overlap
from basinet.structures.segment import mean_per_molecule, sum_per_molecule

Quantity = Callable[[Record], Float64[Tensor, " n_molecules"]]
"""One number per molecule of a record."""
RECORDS_AT_ONCE = 256
"""Records of a table kept in memory between writes."""


def rmsd(positions: Float[Tensor, "n_atoms 3"], batch: Batch) -> Float64[Tensor, " n_molecules"]:
    r"""Return the distance of each molecule from its positions in ``batch``, after the best shift and turn, Å.

    .. math:: d^2 = \tfrac1N \Big(\sum_i |p_i|^2 + |q_i|^2 - 2\,\mathrm{tr}\,R^\top P^\top Q\Big)

    with centred positions and their best proper rotation; atoms of the same element are not exchanged.
    """
    p, q = (x.double() - mean_per_molecule(x.double(), batch)[batch.molecule] for x in (batch.positions, positions))
    product = sum_per_molecule(p[:, :, None] * q[:, None, :], batch)  # [B, 3, 3]
    squared = sum_per_molecule(p.square().sum(1) + q.square().sum(1), batch) - 2 * best_overlap(product)
    return (squared.clamp(min=0) / batch.atoms_per_molecule).sqrt()


def mean_bond_lengths(batch: Batch, bonds: Bonds) -> dict[str, Quantity]:
    """Return the mean length of each kind of bond, such as ``C-H``, in a molecule, Å; NaN where there is none."""
    numbers = batch.atomic_numbers[bonds.pairs].sort(dim=1, descending=True).values.tolist()
    kinds = ["-".join(sorted(chemical_symbols[z] for z in pair)) for pair in numbers]

    def of_kind(kind: str) -> Quantity:
        chosen = torch.tensor([i for i, k in enumerate(kinds) if k == kind], device=bonds.molecule.device)
        molecule = bonds.molecule[chosen]
        count = torch.bincount(molecule, minlength=batch.n_molecules)

        def mean(record: Record) -> Float64[Tensor, " n_molecules"]:
            length = bond_lengths(record.state.batch.positions, bonds)[chosen]
            return torch.zeros_like(record.state.energy).index_add(0, molecule, length) / count

        return mean

    return {kind: of_kind(kind) for kind in sorted(set(kinds))}


def standard_quantities(start: Batch, bonds: Bonds) -> dict[str, Quantity]:
    """Return the columns of the table of a simulation."""
    return {
        "potential_eV": lambda r: r.state.energy,
        "kinetic_eV": lambda r: r.kinetic,
        "temperature_K": lambda r: r.temperature,
        "conserved_eV": lambda r: r.conserved,
        "bond_deviation_A": lambda r: largest_deviation(r.state.batch, bonds),
        "rmsd_A": lambda r: rmsd(r.state.batch.positions, start),
        **{f"{kind}_A": quantity for kind, quantity in mean_bond_lengths(start, bonds).items()},
    }


class Table(Observer):
    """Writes ``time_ps,replica,...`` as CSV, a row for each active replica at each record.

    Args:
        path: file to write; an old one is replaced.
        quantities: columns by name.
    """

    def __init__(self, path: Path, quantities: Mapping[str, Quantity]) -> None:
        self.path, self.quantities = path, dict(quantities)
        self._waiting: list[tuple[float, Tensor, Tensor]] = []
        self._size: int | None = None

    def observe(self, record: Record) -> None:
        """Keep the values, on their device until :meth:`flush`."""
        values = torch.stack([quantity(record) for quantity in self.quantities.values()], dim=1)
        self._waiting.append((record.time, values, record.active))
        if len(self._waiting) >= RECORDS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Append the rows in memory to the file."""
        begins = self._size is None
        with open(self.path, "w" if begins else "a", encoding="utf-8") as file:
            if begins:
                file.write(",".join(["time_ps", "replica", *self.quantities]) + "\n")
            for time, values, active in self._waiting:
                rows = zip(values.tolist(), active.tolist(), strict=True)
                for replica, (row, is_active) in enumerate(rows):
                    if is_active:
                        cells = (f"{value:.12g}" for value in row)
                        file.write(",".join([f"{time / 1000:.10g}", str(replica), *cells]) + "\n")
            self._size = file.tell()
        self._waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the size of the file."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remove the rows written after ``state``."""
        self._size = cut_file(self.path, state["size"])


def cut_file(path: Path, size: int) -> int:
    """Cut a file that grows at its end back to ``size`` bytes, and return the size.

    Raises:
        ValueError: the file is shorter.
    """
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise ValueError(f"{path} has {found} bytes, fewer than the {size} saved; cannot resume")
    with open(path, "r+b") as file:
        file.truncate(size)
    return size


class DistanceCounts(Observer):
    """Counts the distances between the atoms of each molecule for h(r), up to and including its last frame.

    Counts before and after time ``half`` (fs) are separate, to show whether the distribution still changes.
    """

    def __init__(self, batch: Batch, half: float = math.inf) -> None:
        self.half = half
        self.counts = torch.zeros((2, batch.n_molecules, HISTOGRAM_BINS), dtype=torch.float64)
        self.counts = self.counts.to(batch.positions.device)
        sizes, first = batch.atoms_per_molecule, batch.first_atom
        self._groups = [
            (molecules := torch.nonzero(sizes == n).flatten(), first[molecules][:, None] + torch.arange(n).to(first))
            for n in sizes.unique().tolist()
            if n > 1
        ]
        """Molecules of one size, and their atoms [n_molecules, n_atoms]."""

    def observe(self, record: Record) -> None:
        """Count the distances of one record."""
        counts = self.counts[int(record.time > self.half)]
        for molecules, atoms in self._groups:
            active = record.active[molecules]
            count_distances(record.state.batch.positions[atoms[active]].double(), molecules[active], counts)

    def histograms(self) -> Float64[Tensor, "n_molecules n_bins"]:
        """Return h(r) of each molecule, 1/Å, over the whole run."""
        return normalised(self.counts.sum(dim=0))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"counts": self.counts, "half": self.half}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume counting."""
        self.counts, self.half = state["counts"], state["half"]


class FirstBroken(Observer):
    """Records when each molecule first had a broken bond, for several definitions of its bonds."""

    def __init__(self, bonds: Sequence[Bonds], tolerance: float, batch: Batch) -> None:
        self.bonds, self.tolerance = list(bonds), tolerance
        self.times = torch.full((len(self.bonds), batch.n_molecules), math.inf, dtype=torch.float64)
        """Time of the first broken bond, fs, [n_definitions, n_molecules]; infinite if none."""
        self.times = self.times.to(batch.positions.device)

    def observe(self, record: Record) -> None:
        """Record the molecules that are broken now."""
        for i, bonds in enumerate(self.bonds):
            broken = record.active & (largest_deviation(record.state.batch, bonds) > self.tolerance)
            self.times[i] = torch.where(broken, self.times[i].clamp(max=record.time), self.times[i])

    def all_broken(self, state: MDState) -> Bool[Tensor, " n_molecules"]:
        """Return the molecules broken by every definition (a :data:`~basinet.md.dynamics.StopWhen`)."""
        del state
        return torch.isfinite(self.times).all(dim=0)

    def state_dict(self) -> dict[str, Any]:
        """Return the times."""
        return {"times": self.times}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the times."""
        self.times = state["times"]


TOPOLOGY_SKIN = 0.15
"""Added to each covalent radius when bonds are found by mean distances, Å. Smaller than for a single frame, as a mean
over thousands of frames varies less; a hydrogen bond (1.7 Å) does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGeometry:
    """Distances in a reference trajectory of one molecule."""

    histogram: Float64[Tensor, " n_bins"]
    """h(r) of all frames, 1/Å."""
    mean_distances: Float64[Tensor, "n_atoms n_atoms"]
    """Å; zero on the diagonal."""
    n_frames: int

    @classmethod
    def of(cls, chunks: Iterable[Float[Tensor, "_ n_atoms 3"]]) -> "ReferenceGeometry":
        """Return the distances in frames that come in chunks."""
        counts = torch.zeros((1, HISTOGRAM_BINS), dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        n_frames = 0
        for chunk in chunks:
            positions = chunk.double()
            count_distances(positions, torch.zeros(len(positions), dtype=torch.int64), counts)
            vectors = positions[:, :, None] - positions[:, None]
            total = total + torch.linalg.vector_norm(vectors, dim=-1).sum(0)
            n_frames += len(positions)
        if n_frames == 0:
            raise ValueError("there are no reference frames")
        return cls(histogram=normalised(counts)[0], mean_distances=total / n_frames, n_frames=n_frames)

    def bonds_of_start(self, starts: Sequence[Molecule]) -> Bonds:
        """Return the bonds of the benchmark: pairs that are close in the first frame, with mean lengths."""
        return self._with_means([dataclasses.replace(m, bonds=None, bond_orders=None) for m in starts])

    def bonds_of_topology(self, starts: Sequence[Molecule]) -> Bonds:
        """Return the bonds of the molecule: pairs with a small mean distance, with mean lengths.

        In the first frame a stretched bond may be missing, or two close atoms may count as bonded.
        """
        pairs = self._topology(starts[0].atomic_numbers)
        return self._with_means([dataclasses.replace(m, bonds=pairs, bond_orders=None) for m in starts])

    def _topology(self, atomic_numbers: np.ndarray) -> np.ndarray:
        radius = covalent_radii[atomic_numbers] + TOPOLOGY_SKIN
        close = self.mean_distances.numpy() < radius[:, None] + radius[None]
        first, second = np.nonzero(np.triu(close, k=1))
        return np.stack([first, second], axis=1).astype(np.int64)

    def _with_means(self, molecules: Sequence[Molecule]) -> Bonds:
        bonds = reference_bonds(molecules)
        local = bonds.pairs - (bonds.molecule * len(self.mean_distances))[:, None]
        return bonds.replace_lengths(self.mean_distances[local[:, 0], local[:, 1]])


class IntactDistanceCounts(Observer):
    """Counts distances for h(r) up to and including the first frame with a broken bond.

    Args:
        counts: receives the records.
        broken: times of the first broken bond, by its first definition; must observe each record before this observer.
    """

    def __init__(self, counts: DistanceCounts, broken: FirstBroken) -> None:
        self.counts, self.broken = counts, broken

    def observe(self, record: Record) -> None:
        """Count the distances of one record."""
        intact = ~(self.broken.times[0] < record.time)
        self.counts.observe(record._replace(active=record.active & intact))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return self.counts.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume counting."""
        self.counts.load_state_dict(state)
