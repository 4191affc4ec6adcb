r"""Check that energies, forces and positions of data belong together.

Between two similar frames of one molecule the energy must change by minus the work of the forces:

.. math:: E_2 - E_1 = -\tfrac12 (F_1 + F_2) \cdot (r_2 - r_1) + O(|r_2 - r_1|^3)

=========================  ==================================================================
:math:`r_2`, :math:`F_2`   the second frame and its forces, turned onto the first (Kabsch)
left side                  ``change``, eV
right side                 ``work``, eV
=========================  ==================================================================

The slope of the left against the right side is 1 for correct data, -1 if gradients are called forces, and the ratio of
two units if only one of them was converted.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Float64, Int64

from basinet.data.store.store import MoleculeStore
from basinet.structures import Molecule
from basinet.structures.geometry import kabsch
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL, KJ_PER_MOL, MEV

MAX_FRAMES = 3000
"""Largest number of frames; the cost grows with the square."""
MAX_PAIRS, MIN_PAIRS = 100, 10
MIN_CORRELATION = 0.85
"""On the eight molecules of rMD17 the slope is within 9% of 1 wherever the correlation is above this, even for 50
random frames (18% on 3BPA); below it the frames are too different to tell."""
CLOSE = 0.1
"""Rms displacement of similar frames, Å. On rMD17 they correlate above 0.96: a low correlation means wrong forces."""
UNRELATED = 0.5
NOISE = 1e-3
"""Smallest change of a pair that counts, eV; smaller ones are the same frame or minimum twice."""
MAX_ATOMS = 48
"""Largest number of atoms whose distances are compared to find similar frames."""

CAUSES = (
    (1 / KCAL_PER_MOL, "the energies are in kcal/mol but the forces in eV/Å"),
    (KCAL_PER_MOL, "the forces are in kcal/mol/Å but the energies in eV"),
    (1 / KJ_PER_MOL, "the energies are in kJ/mol but the forces in eV/Å"),
    (KJ_PER_MOL, "the forces are in kJ/mol/Å but the energies in eV"),
    (1 / HARTREE, "the energies are in hartree but the forces in eV/Å"),
    (HARTREE, "the forces are in hartree/Å but the energies in eV"),
    (HARTREE / BOHR, "the forces are in hartree/bohr but the energies in eV"),
    (1 / BOHR, "the forces are per bohr but the positions in Å"),
    (BOHR, "the positions are in bohr but the forces per Å"),
    (1 / MEV, "the energies are in meV but the forces in eV/Å"),
    (MEV, "the forces are in meV/Å but the energies in eV"),
    (HARTREE / KCAL_PER_MOL, "the forces are in hartree/Å but the energies in kcal/mol"),
    (KCAL_PER_MOL / HARTREE, "the energies are in hartree but the forces in kcal/mol/Å"),
)
"""Cause of a slope other than 1."""
LENGTH_CAUSES = (
    (1 / BOHR, "the positions are in bohr"),
    (BOHR, "the positions were converted from bohr although they are in Å"),
    (10.0, "the positions were converted from nm although they are in Å"),
)
"""Cause of bond lengths other than the sum of covalent radii."""
CAUSE_TOLERANCE = math.log(1.35)
LENGTH_TOLERANCE = math.log(1.2)


class FramePairs(NamedTuple):
    """Pairs of similar frames of one compound."""

    change: Float64[np.ndarray, " n_pairs"]
    """Energy of the second frame minus that of the first, eV."""
    work: Float64[np.ndarray, " n_pairs"]
    """Minus the work of the forces from the first to the second, eV."""
    distance: Float64[np.ndarray, " n_pairs"]
    """Root mean square displacement, Å."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyReport:
    """Consistency of energies, forces and positions."""

    verdict: Literal["consistent", "inconsistent", "not testable"]
    reason: str
    """The evidence and the likely cause of a fault, in one line."""
    slope: float | None
    """Energy change over minus the work of the forces; 1 for correct data, ``None`` if not measurable."""
    correlation: float | None
    n_pairs: int
    """Pairs of frames compared."""
    bond_ratio: float | None
    """Median distance to the nearest neighbour over the sum of covalent radii: about 1."""
    pairs: FramePairs | None = field(default=None, repr=False, compare=False)
    """Pairs, for a figure."""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


def check_consistency(molecules: MoleculeStore | Sequence[Molecule]) -> ConsistencyReport:
    """Compare energies with forces, and distances with covalent radii.

    Large data is sampled in runs of consecutive molecules, because frames of one compound are often adjacent.
    """
    sample = [molecules[i] for i in _sample(len(molecules))]
    ratio = bond_ratio(sample)
    cause = None if ratio is None else _nearest_cause(ratio, LENGTH_CAUSES, LENGTH_TOLERANCE)
    if cause is not None:
        reason = (
            f"nearest neighbours are {ratio:.2f} times as far apart as bonded atoms: {cause}; convert the positions"
        )
        return ConsistencyReport(
            verdict="inconsistent", reason=reason, slope=None, correlation=None, n_pairs=0, bond_ratio=ratio
        )
    labelled = [m for m in sample if "energy" in m.labels and "forces" in m.labels and m.n_atoms > 1]
    pairs = _close_pairs(labelled)
    verdict, reason, slope, correlation = _judge(pairs, len(labelled))
    return ConsistencyReport(
        verdict=verdict,
        reason=reason,
        slope=slope,
        correlation=correlation,
        n_pairs=len(pairs.change),
        bond_ratio=ratio,
        pairs=pairs,
    )


def require_consistent(molecules: MoleculeStore | Sequence[Molecule], name: str) -> ConsistencyReport:
    """Return the report of data that is consistent or cannot be tested; ``name`` is its name in the error.

    Raises:
        ValueError: the data is inconsistent.
    """
    report = check_consistency(molecules)
    if report.verdict == "inconsistent":
        raise ValueError(f"{name}: {report.reason}")
    return report


def bond_ratio(molecules: Sequence[Molecule]) -> float | None:
    """Return the median distance of an atom to its nearest neighbour over the sum of their covalent radii.

    ``None`` if no molecule has two atoms.
    """
    ratios = [_nearest_ratios(m) for m in molecules[:: max(1, len(molecules) // 300)] if m.n_atoms > 1]
    return float(np.median(np.concatenate(ratios))) if ratios else None


def _nearest_ratios(molecule: Molecule) -> Float64[np.ndarray, " n_some"]:
    some = slice(0, 10 * MAX_ATOMS)
    distance = np.linalg.norm(molecule.positions[some, None] - molecule.positions[None], axis=-1)
    distance[np.arange(len(distance)), np.arange(len(distance))] = np.inf
    radii = covalent_radii[molecule.atomic_numbers]
    return (distance / (radii[some, None] + radii[None])).min(axis=1)


def _sample(n: int) -> Int64[np.ndarray, " n_sampled"]:
    """Return at most ``MAX_FRAMES`` indices, in runs of 100."""
    if n <= MAX_FRAMES:
        return np.arange(n)
    starts = np.linspace(0, n - 100, MAX_FRAMES // 100).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(100))


def _close_pairs(molecules: Sequence[Molecule]) -> FramePairs:
    """Return the closest pairs of frames of the same compound."""
    compounds: dict[tuple[bytes, str], list[int]] = defaultdict(list)
    for i, m in enumerate(molecules):
        compounds[m.atomic_numbers.tobytes(), m.smiles].append(i)
    candidates = [
        (distance, frames[i], frames[j])
        for frames in compounds.values()
        if len(frames) > 1
        for distance, i, j in _nearest_frames([molecules[f] for f in frames])
    ]
    compared = (_compare(molecules[i], molecules[j]) for _, i, j in sorted(candidates))
    telling = (pair for pair in compared if max(abs(pair[0]), abs(pair[1])) > NOISE)
    columns = np.array(list(islice(telling, MAX_PAIRS)), dtype=np.float64).reshape(-1, 3)
    return FramePairs(*columns.T)


def _nearest_frames(frames: Sequence[Molecule]) -> set[tuple[float, int, int]]:
    """Return each frame with the most similar one, by interatomic distances, which need no alignment."""
    atoms = np.linspace(0, frames[0].n_atoms - 1, min(MAX_ATOMS, frames[0].n_atoms)).astype(np.int64)
    positions = np.stack([m.positions[atoms] for m in frames])
    first, second = np.triu_indices(len(atoms), k=1)
    distances = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    distances -= distances.mean(0)
    norms = (distances**2).sum(1)
    squared = norms[:, None] + norms[None] - 2 * distances @ distances.T
    np.fill_diagonal(squared, np.inf)
    nearest = squared.argmin(1)
    per_pair = np.sqrt(squared.min(1).clip(0) / len(first))
    return {(float(per_pair[i]), min(i, int(j)), max(i, int(j))) for i, j in enumerate(nearest)}


def _compare(first: Molecule, second: Molecule) -> tuple[float, float, float]:
    """Return energy change, minus the work of the forces, and rms displacement between two frames."""
    rotation, shift = (t.numpy() for t in kabsch(torch.from_numpy(second.positions), torch.from_numpy(first.positions)))
    moved = second.positions @ rotation + shift - first.positions
    force = 0.5 * (first.labels["forces"] + second.labels["forces"] @ rotation)
    change = second.labels["energy"] - first.labels["energy"]
    return float(change), -float((force * moved).sum()), float(np.sqrt((moved**2).sum(1).mean()))


def _judge(
    pairs: FramePairs, n_labelled: int
) -> tuple[Literal["consistent", "inconsistent", "not testable"], str, float | None, float | None]:
    """Return verdict, reason, slope and correlation."""
    n = len(pairs.change)
    if n < MIN_PAIRS:
        reason = (
            f"{n_labelled} molecules have energy and forces, and {n} pairs of them are different frames of one "
            f"compound; {MIN_PAIRS} pairs are needed"
        )
        return "not testable", reason, None, None
    # Per Å, so that all pairs weigh the same, not mostly the few that are far apart.
    change, work = pairs.change / pairs.distance, pairs.work / pairs.distance
    sizes = math.sqrt(float(change @ change)), math.sqrt(float(work @ work))
    if min(sizes) == 0.0:
        reason = "the energy never changes" if sizes[0] == 0.0 else "the forces do no work"
        return "not testable", f"{reason} between {n} pairs of frames", None, None
    correlation = float(change @ work) / (sizes[0] * sizes[1])
    distance = float(np.median(pairs.distance))
    evidence = f"{n} pairs of frames {distance:.2g} Å apart (rms), correlation {correlation:.3f}"
    if abs(correlation) < MIN_CORRELATION:
        if distance < CLOSE and abs(correlation) < UNRELATED:
            reason = f"the forces are not the gradient of these energies ({evidence}); do they belong to other frames?"
            return "inconsistent", reason, None, correlation
        return "not testable", f"the frames are too different to compare ({evidence})", None, correlation
    slope = math.copysign(sizes[0] / sizes[1], correlation)  # symmetric in both errors, unlike least squares
    return *_explain(slope, evidence), slope, correlation


def _explain(slope: float, evidence: str) -> tuple[Literal["consistent", "inconsistent"], str]:
    found = f"energy changes are {slope:.4g} times minus the work of the forces"
    if abs(math.log(abs(slope))) < math.log(1 / BOHR) / 2:
        if slope > 0:
            return "consistent", f"{found} ({evidence})"
        return "inconsistent", f"{found}: the forces have the wrong sign, they are gradients; negate them ({evidence})"
    cause = _nearest_cause(abs(slope), CAUSES, CAUSE_TOLERANCE) or "their units differ"
    sign = "" if slope > 0 else ", and the forces have the wrong sign"
    return "inconsistent", f"{found}, 1 expected: {cause}{sign}; convert them to eV and eV/Å ({evidence})"


def _nearest_cause(factor: float, causes: tuple[tuple[float, str], ...], tolerance: float) -> str | None:
    mismatch, cause = min((abs(math.log(factor / known)), cause) for known, cause in causes)
    return cause if mismatch < tolerance else None
