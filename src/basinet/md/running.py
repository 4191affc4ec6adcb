"""Observables kept up while a simulation runs; their memory does not grow with its length."""

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
"""Records of a table that wait in memory."""


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
    """Return, for each kind of bond such as ``C-H``, its mean length in each molecule, Å; NaN where there is none."""
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
    """Return what the table of a simulation holds, by the name of the column."""
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
    """Writes ``time_ps,replica,...`` as CSV, a row for each replica that is alive at each record.

    Args:
        path: of the file; an old one is replaced.
        quantities: columns by name.
    """

    def __init__(self, path: Path, quantities: Mapping[str, Quantity]) -> None:
        self.path, self.quantities = path, dict(quantities)
        self._waiting: list[tuple[float, Tensor, Tensor]] = []
        self._size: int | None = None

    def observe(self, record: Record) -> None:
        """Take the values; they stay on their device until :meth:`flush`."""
        values = torch.stack([quantity(record) for quantity in self.quantities.values()], dim=1)
        self._waiting.append((record.time, values, record.alive))
        if len(self._waiting) >= RECORDS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Append what was observed."""
        begins = self._size is None
        with open(self.path, "w" if begins else "a", encoding="utf-8") as file:
            if begins:
                file.write(",".join(["time_ps", "replica", *self.quantities]) + "\n")
            for time, values, alive in self._waiting:
                rows = zip(values.tolist(), alive.tolist(), strict=True)
                for replica, (row, is_alive) in enumerate(rows):
                    if is_alive:
                        cells = (f"{value:.12g}" for value in row)
                        file.write(",".join([f"{time / 1000:.10g}", str(replica), *cells]) + "\n")
            self._size = file.tell()
        self._waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return how long the file is."""
        return {"size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut off what was written later."""
        self._size = cut_file(self.path, state["size"])


def cut_file(path: Path, size: int) -> int:
    """Cut a file that is written to at its end, and return its size.

    Raises:
        ValueError: it is shorter than it was.
    """
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise ValueError(f"{path} has {found} bytes and had {size} when the run was saved; it cannot be gone on with")
    with open(path, "r+b") as file:
        file.truncate(size)
    return size


class DistanceCounts(Observer):
    """Counts the distances between the atoms of each molecule for h(r), until it fails, its last frame included.

    Counts are kept apart for the time before and after ``half`` (fs), to see whether the distribution still changes.
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
            alive = record.alive[molecules]
            count_distances(record.state.batch.positions[atoms[alive]].double(), molecules[alive], counts)

    def histograms(self) -> Float64[Tensor, "n_molecules n_bins"]:
        """Return h(r) of each molecule, 1/Å, over the whole run."""
        return normalised(self.counts.sum(dim=0))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"counts": self.counts, "half": self.half}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.counts, self.half = state["counts"], state["half"]


class FirstBroken(Observer):
    """Notes when each molecule first had a broken bond, for several ways to say what its bonds are."""

    def __init__(self, bonds: Sequence[Bonds], tolerance: float, batch: Batch) -> None:
        self.bonds, self.tolerance = list(bonds), tolerance
        self.times = torch.full((len(self.bonds), batch.n_molecules), math.inf, dtype=torch.float64)
        """fs, [n_ways, n_molecules]; infinite if none was broken so far."""
        self.times = self.times.to(batch.positions.device)

    def observe(self, record: Record) -> None:
        """Note what is broken now."""
        for i, bonds in enumerate(self.bonds):
            broken = record.alive & (largest_deviation(record.state.batch, bonds) > self.tolerance)
            self.times[i] = torch.where(broken, self.times[i].clamp(max=record.time), self.times[i])

    def all_broken(self, state: MDState) -> Bool[Tensor, " n_molecules"]:
        """Tell which molecules were broken in every way (a :data:`~basinet.md.dynamics.StopWhen`)."""
        del state
        return torch.isfinite(self.times).all(dim=0)

    def state_dict(self) -> dict[str, Any]:
        """Return the times."""
        return {"times": self.times}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.times = state["times"]


TOPOLOGY_SKIN = 0.15
"""Å, per atom. Two atoms whose mean distance is below the sum of their covalent radii, each enlarged by it, are bonded:
a mean over thousands of frames needs less room than a single frame does, and a hydrogen bond (1.7 Å) is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGeometry:
    """The distances in a trajectory of one molecule."""

    histogram: Float64[Tensor, " n_bins"]
    """h(r) of all frames, 1/Å."""
    mean_distances: Float64[Tensor, "n_atoms n_atoms"]
    """Å; zero on the diagonal."""
    n_frames: int

    @classmethod
    def of(cls, chunks: Iterable[Float[Tensor, "_ n_atoms 3"]]) -> "ReferenceGeometry":
        """Look at frames, chunk by chunk; memory does not grow with their number.

        Raises:
            ValueError: there are none.
        """
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
        """Return the bonds of the benchmark: pairs that are close in the first frame, with their mean lengths."""
        return self._with_means([dataclasses.replace(m, bonds=None, bond_orders=None) for m in starts])

    def bonds_of_topology(self, starts: Sequence[Molecule]) -> Bonds:
        """Return the bonds of the molecule: pairs that are close in the mean, with their mean lengths.

        The first frame may have a pair too few, where a bond is stretched, or too many, where two atoms come close.
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


class DistancesWhileWhole(Observer):
    """Counts distances for h(r) up to the first frame with a broken bond, that frame included.

    Args:
        counts: what counts.
        broken: says since when a molecule is broken; it has to look at each record first. Its first way is meant.
    """

    def __init__(self, counts: DistanceCounts, broken: FirstBroken) -> None:
        self.counts, self.broken = counts, broken

    def observe(self, record: Record) -> None:
        """Count the distances of one record."""
        whole = ~(self.broken.times[0] < record.time)
        self.counts.observe(record._replace(alive=record.alive & whole))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return self.counts.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.counts.load_state_dict(state)
