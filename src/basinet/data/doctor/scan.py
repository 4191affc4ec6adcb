"""Collect the numbers of each molecule that the checks of data need, in one pass over a store.

Memory is a few numbers per molecule.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Bool, Float64, Int64

from basinet.data.store.store import MoleculeStore
from basinet.structures import Batch
from basinet.structures.segment import centre_per_molecule, sum_per_molecule

BATCH_ATOMS = 50_000
"""Atoms read at once."""
MAX_PAIRS = 400_000_000
"""Largest number of pairs of atoms whose distances are computed; with more, molecules are sampled."""
PAIRS_AT_ONCE = 4_000_000
MAX_ATOMS = 2000
"""Largest molecule whose distances are computed."""
RATIO_EDGES = np.linspace(0.4, 2.4, 101)
"""Bins of the distance to the nearest neighbour over the sum of the covalent radii."""
FORCE_EDGES = np.logspace(-5, 4, 91)
"""Bins of the length of a force, eV/Å."""
MAX_BOND = 1.35
"""Largest length of a bond of hydrogen over the sum of covalent radii."""


@dataclass(kw_only=True)
class Spring:
    """Sums over bonds of hydrogen to one element: length r (Å), force on the hydrogen along the bond f (eV/Å)."""

    sums: Float64[np.ndarray, " 6"] = field(default_factory=lambda: np.zeros(6))
    """Sums of 1, r, f, r², r f, f²; r relative to ``origin``."""
    origin: float = 1.0
    """Near the mean length, so that the sums of squares keep their digits, Å."""

    def add(self, r: Float64[np.ndarray, " n"], f: Float64[np.ndarray, " n"]) -> None:
        """Add bonds."""
        x = r - self.origin
        self.sums += np.array([len(x), x.sum(), f.sum(), (x * x).sum(), (x * f).sum(), (f * f).sum()])

    @property
    def count(self) -> int:
        """Number of bonds."""
        return int(self.sums[0])

    @property
    def spread(self) -> float:
        """Standard deviation of the length, Å."""
        return float(np.sqrt(self._moments()[0]))

    @property
    def correlation(self) -> float:
        """Correlation of force and length; near -1 for correct forces."""
        rr, rf, ff = self._moments()
        return float(rf / np.sqrt(rr * ff)) if rr > 0 and ff > 0 else 0.0

    @property
    def constant(self) -> float:
        """Force constant, eV/Å²: ratio of the two spreads, with minus the sign of the correlation."""
        rr, rf, ff = self._moments()
        return float(-np.sign(rf) * np.sqrt(ff / rr)) if rr > 0 else 0.0

    def _moments(self) -> tuple[float, float, float]:
        n, r, f, rr, rf, ff = self.sums.tolist()
        if n == 0:
            return 0.0, 0.0, 0.0
        return max(rr / n - (r / n) ** 2, 0.0), rf / n - r * f / n**2, max(ff / n - (f / n) ** 2, 0.0)


@dataclass(kw_only=True)
class Scan:
    """Numbers of all molecules; NaN where a label is missing or a molecule was not sampled."""

    n_atoms: Int64[np.ndarray, " n"]
    odd: Bool[np.ndarray, " n"]
    """The number of electrons is odd."""
    charges: Int64[np.ndarray, " n"]
    not_finite: Bool[np.ndarray, " n"]
    """A position or a label is not finite."""
    net_force: Float64[np.ndarray, " n"]
    """Size of the sum of the forces, eV/Å."""
    net_force_part: Float64[np.ndarray, " n"]
    """``net_force`` over the sum of the sizes of the forces."""
    torque_part: Float64[np.ndarray, " n"]
    """Size of the torque over the sum of size of force times distance from the centre."""
    max_force: Float64[np.ndarray, " n"]
    """Largest force, eV/Å."""
    mean_square_force: Float64[np.ndarray, " n"]
    """Mean over atoms, eV²/Å²."""
    closest: Float64[np.ndarray, " n"]
    """Smallest distance of two atoms over the sum of their covalent radii."""
    gap: Float64[np.ndarray, " n"]
    """Widest gap between two groups of atoms, Å: longest edge of the minimum spanning tree."""
    geometry_rows: Int64[np.ndarray, " n_sampled"]
    """Molecules whose distances were computed."""
    nearest: Int64[np.ndarray, " 100"] = field(default_factory=lambda: np.zeros(100, dtype=np.int64))
    """Histogram of atoms over ``RATIO_EDGES``."""
    forces: Int64[np.ndarray, " 90"] = field(default_factory=lambda: np.zeros(90, dtype=np.int64))
    """Histogram of atoms over ``FORCE_EDGES``."""
    springs: dict[int, Spring] = field(default_factory=lambda: {z: Spring() for z in (6, 7, 8)})
    """Bonds of hydrogen by the other element, in molecules with forces that are not minima."""


def scan(store: MoleculeStore) -> Scan:
    """Return the numbers of every molecule; distances are computed for as many as ``MAX_PAIRS`` allows."""
    n, sizes = len(store), store.atoms_per_molecule
    rows = _geometry_sample(sizes)
    wanted = np.isin(np.arange(n), rows)
    empty: dict[str, Any] = {name: np.full(n, np.nan) for name in _NUMBERS}
    flags = {name: np.zeros(n, dtype=bool) for name in ("odd", "not_finite")}
    charges = np.concatenate([np.zeros(0, dtype=np.int64), *(s.charges.astype(np.int64) for s in store.shards)])
    found = Scan(n_atoms=sizes, charges=charges, geometry_rows=rows, **flags, **empty)
    for first, last in _batches(sizes):
        batch = store.gather(np.arange(first, last))
        part = slice(first, last)
        electrons = sum_per_molecule(batch.atomic_numbers.double(), batch).numpy() - charges[part]
        found.odd[part] = electrons % 2 == 1
        found.not_finite[part] = _not_finite(batch)
        if "forces" in batch.labels:
            _add_forces(found, part, batch)
        _add_distances(found, first, batch, wanted[part])
    return found


_NUMBERS = ("net_force", "net_force_part", "torque_part", "max_force", "mean_square_force", "closest", "gap")


def _batches(sizes: Int64[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """Cut the molecules into runs of about ``BATCH_ATOMS`` atoms."""
    ends = np.cumsum(sizes)
    cuts = [0]
    while cuts[-1] < len(sizes):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, before + BATCH_ATOMS, side="right"))))
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def _geometry_sample(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n_sampled"]:
    usable = np.flatnonzero((sizes > 1) & (sizes <= MAX_ATOMS))
    order = np.random.default_rng(0).permutation(usable)
    return np.sort(order[np.cumsum(sizes[order] ** 2) <= MAX_PAIRS])


def _not_finite(batch: Batch) -> Bool[np.ndarray, " n"]:
    bad = sum_per_molecule((~batch.positions.isfinite()).any(-1).double(), batch) > 0
    for name, values in batch.labels.items():
        odd = ~values.isfinite()
        if len(values) != batch.n_molecules or values.ndim > 1:
            odd = sum_per_molecule(odd.reshape(len(odd), -1).any(-1).double(), batch) > 0
        bad |= odd & batch.flags[f"has_{name}"]
    return bad.numpy()


def _add_forces(found: Scan, part: slice, batch: Batch) -> None:
    force = batch.labels["forces"].double()
    norm = force.norm(dim=-1)
    arm = centre_per_molecule(batch.positions.double(), batch)
    net = sum_per_molecule(force, batch).norm(dim=-1)
    torque = sum_per_molecule(torch.linalg.cross(arm, force), batch).norm(dim=-1)
    sizes, levers = sum_per_molecule(norm, batch), sum_per_molecule(norm * arm.norm(dim=-1), batch)
    tiny = torch.finfo(torch.float64).tiny
    found.net_force[part] = net.numpy()
    found.net_force_part[part] = (net / sizes.clamp_min(tiny)).numpy()
    found.torque_part[part] = (torque / levers.clamp_min(tiny)).numpy()
    largest = norm.new_full((batch.n_molecules,), -torch.inf)
    largest = largest.scatter_reduce(0, batch.molecule, norm, "amax")
    found.max_force[part] = largest.numpy()
    found.mean_square_force[part] = (sum_per_molecule(norm * norm, batch) / batch.atoms_per_molecule).numpy()
    has = batch.flags["has_forces"].numpy()
    for name in ("net_force", "net_force_part", "torque_part", "max_force", "mean_square_force"):
        getattr(found, name)[part][~has] = np.nan
    shown = norm[norm.isfinite()].numpy()
    found.forces += np.histogram(shown.clip(FORCE_EDGES[0], 0.999 * FORCE_EDGES[-1]), FORCE_EDGES)[0]


def _add_distances(found: Scan, first: int, batch: Batch, wanted: Bool[np.ndarray, " n"]) -> None:
    """Compute all distances of the wanted molecules, those of equal size together."""
    sizes = batch.atoms_per_molecule.numpy()
    starts = np.cumsum(sizes) - sizes
    moving = (
        ~batch.flags["is_equilibrium"].numpy() & batch.flags.get("has_forces", torch.zeros(len(sizes))).bool().numpy()
    )
    for size in np.unique(sizes[wanted]).tolist():
        alike = np.flatnonzero(wanted & (sizes == size))
        for chosen in np.array_split(alike, max(1, round(len(alike) * size * size / PAIRS_AT_ONCE))):
            atoms = starts[chosen][:, None] + np.arange(size)
            positions = batch.positions.numpy()[atoms].astype(np.float64)
            numbers = batch.atomic_numbers.numpy()[atoms]
            vectors = positions[:, :, None] - positions[:, None]
            distance = np.sqrt(np.einsum("bijk,bijk->bij", vectors, vectors))
            distance[:, np.arange(size), np.arange(size)] = np.inf
            radius = covalent_radii[numbers]
            ratio = distance / (radius[:, :, None] + radius[:, None])
            nearest = ratio.min(-1)
            found.closest[first + chosen] = nearest.min(-1)
            found.gap[first + chosen] = _longest_edge(distance)
            found.nearest += np.histogram(nearest.clip(RATIO_EDGES[0], 0.9999 * RATIO_EDGES[-1]), RATIO_EDGES)[0]
            if moving[chosen].any():
                forces = batch.labels["forces"].numpy()[atoms].astype(np.float64)
                some = moving[chosen]
                _add_springs(found.springs, numbers[some], ratio[some], vectors[some], forces[some])


def _add_springs(
    springs: dict[int, Spring],
    numbers: Int64[np.ndarray, "b n"],
    ratio: Float64[np.ndarray, "b n n"],
    vectors: Float64[np.ndarray, "b n n 3"],
    forces: Float64[np.ndarray, "b n 3"],
) -> None:
    molecule, atom = np.nonzero((numbers == 1) & (ratio.min(-1) < MAX_BOND))
    if len(molecule) == 0:
        return
    other = ratio[molecule, atom].argmin(-1)
    bond = vectors[molecule, atom, other]
    length = np.linalg.norm(bond, axis=-1)
    along = (forces[molecule, atom] * bond).sum(-1) / length
    element = numbers[molecule, other]
    for z, spring in springs.items():
        spring.add(length[element == z], along[element == z])


def _longest_edge(distance: Float64[np.ndarray, "b n n"]) -> Float64[np.ndarray, " b"]:
    """Return the longest edge of the minimum spanning tree of each set of atoms (Prim, all sets at once)."""
    n_sets, n = distance.shape[:2]
    sets = np.arange(n_sets)
    nearest = distance[:, 0].copy()  # of each atom to the tree, which begins as atom 0
    nearest[:, 0] = np.inf
    inside = np.zeros((n_sets, n), dtype=bool)
    inside[:, 0] = True
    longest = np.zeros(n_sets)
    for _ in range(n - 1):
        joined = nearest.argmin(1)
        longest = np.maximum(longest, nearest[sets, joined])
        inside[sets, joined] = True
        nearest = np.where(inside, np.inf, np.minimum(nearest, distance[sets, joined]))
    return longest
