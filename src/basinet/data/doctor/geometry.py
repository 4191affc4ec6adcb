"""Checks of positions: lengths of bonds, atoms that touch, atoms that left."""

import numpy as np

from basinet.data.doctor.check import ConsistencyReport
from basinet.data.doctor.findings import Finding, first_of
from basinet.data.doctor.scan import MAX_ATOMS, Scan

TOUCHING = 0.55
"""Times the sum of covalent radii. rMD17 at 500 K goes down to 0.79, the stretched amons of ANI-1x to 0.76."""
FAR, LOST = 8.0, 20.0
"""Å. The dimers of S66x8 at twice their distance are 6.9 Å apart; nothing within 20 Å is another system."""


def check_lengths(seen: Scan, consistency: ConsistencyReport) -> Finding:
    """Compare the distances of nearest neighbours with sums of covalent radii: are the positions in Å?"""
    ratio = consistency.bond_ratio
    if ratio is None:
        return Finding(check="unit of length", verdict="not checked", evidence="no molecule has two atoms")
    evidence = f"nearest neighbours are {ratio:.3f} times the sum of covalent radii apart (median; 1 expected)"
    if consistency.verdict == "inconsistent" and consistency.n_pairs == 0:
        fix = "give the unit of length of the file, or do not convert what is in Å already"
        return Finding(check="unit of length", verdict="fault", evidence=consistency.reason, fix=fix)
    if not 0.8 < ratio < 1.25:
        fix = "look at some molecules: most atoms have no bonded neighbour"
        return Finding(check="unit of length", verdict="warning", evidence=evidence, fix=fix)
    return Finding(check="unit of length", verdict="ok", evidence=f"{evidence}: Å")


def check_touching(seen: Scan) -> Finding:
    """Find molecules with two atoms closer than any bond."""
    some = seen.closest[seen.geometry_rows]
    if len(some) == 0:
        return Finding(check="touching atoms", verdict="not checked", evidence="no molecule has two atoms")
    evidence = f"the closest atoms are {some.min():.2f} times the sum of their covalent radii apart{_sample(seen)}"
    bad = seen.closest < TOUCHING
    if not bad.any():
        return Finding(check="touching atoms", verdict="ok", evidence=evidence)
    evidence += f"; {int(bad.sum()):,} molecules are below {TOUCHING} ({first_of(bad)})"
    return Finding(check="touching atoms", verdict="warning", evidence=evidence, fix="leave them out if not meant")


def check_pieces(seen: Scan) -> Finding:
    """Find molecules that fall into pieces far apart."""
    some = seen.gap[seen.geometry_rows]
    if len(some) == 0:
        return Finding(check="pieces", verdict="not checked", evidence="no molecule has two atoms")
    evidence = f"the widest gap within a molecule is {some.max():.3g} Å{_sample(seen)}"
    lost, far = seen.gap > LOST, seen.gap > FAR
    if lost.any():
        evidence += f"; in {int(lost.sum()):,} molecules a piece is more than {LOST:g} Å from the rest"
        fix = f"a fragment drifted away or was wrapped around a cell: leave out or mend {first_of(lost)}"
        return Finding(check="pieces", verdict="fault", evidence=evidence, fix=fix)
    if far.any():
        evidence += f"; {int(far.sum()):,} molecules have a gap of more than {FAR:g} Å ({first_of(far)})"
        fix = "a model with a cutoff sees their pieces one by one"
        return Finding(check="pieces", verdict="warning", evidence=evidence, fix=fix)
    return Finding(check="pieces", verdict="ok", evidence=evidence)


def _sample(seen: Scan) -> str:
    n = int(np.sum(seen.n_atoms > 1))
    left_out = f", larger than {MAX_ATOMS} atoms left out" if (seen.n_atoms > MAX_ATOMS).any() else ""
    return "" if len(seen.geometry_rows) == n else f" (of {len(seen.geometry_rows):,} of {n:,} molecules{left_out})"
