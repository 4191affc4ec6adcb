r"""Checks of forces: their unit and sign from how bonds pull back, their balance, their outliers.

A bond of hydrogen is a spring, whatever else the molecule is: stretched, it pulls the hydrogen back. So even data with
one conformation of each molecule tells the unit and the sign of its forces. Over all such bonds that are not at rest

.. math:: f \approx -k\,(r - r_0), \qquad f = F_H \cdot (r_H - r_X) / |r_H - r_X|

with a force constant :math:`k` that vibrational spectra give to some ten percent. In the published data at hand the
measured constants are 0.6 to 1.2 times those below, with correlations of -0.84 to -0.99.
"""

import math
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from basinet.data.doctor.findings import Finding, first_of
from basinet.data.doctor.scan import Scan
from basinet.data.store.store import MoleculeStore
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL, KJ_PER_MOL, MEV

SPRING = {6: 31.0, 7: 42.0, 8: 48.0}
"""eV/Å², of bonds of hydrogen to carbon, nitrogen and oxygen: 5.0, 6.7 and 7.7 mdyn/Å."""
MIN_BONDS, MIN_SPREAD = 30, 0.012
"""Bonds of one kind, and standard deviation of their length in Å, that are needed to tell. In the minima of QM9 the
lengths differ by less, for chemical reasons and not because they are stretched."""
CORRELATED, UNRELATED = 0.7, 0.3
SOFT, STIFF = 0.4, 2.5
"""Range of measured over expected force constant in which the unit is right; units differ by factors of 20 and more."""
UNITS = (
    (1 / KCAL_PER_MOL, "kcal/mol/Å"),
    (1 / KJ_PER_MOL, "kJ/mol/Å"),
    (1 / HARTREE, "hartree/Å"),
    (BOHR / HARTREE, "hartree/bohr"),
    (1 / MEV, "meV/Å"),
    (1 / (KCAL_PER_MOL / BOHR), "kcal/mol/bohr"),
)
"""What a force constant that is so many times too large points to."""
UNBALANCED = 0.03
"""Net force or torque over the sum of the sizes; published forces of molecules are below 0.002 (median)."""
LARGE_FORCE = 30.0
"""eV/Å. In rMD17 at 500 K no force is above 11."""


def check_springs(seen: Scan, store: MoleculeStore) -> Finding:
    """Tell the unit and sign of forces from stretched bonds of hydrogen."""
    check = "unit of forces"
    if "forces" not in store.label_counts:
        return Finding(check=check, verdict="not checked", evidence="cannot be checked: there are no forces")
    usable = {z: s for z, s in seen.springs.items() if s.count >= MIN_BONDS and s.spread >= MIN_SPREAD}
    if not usable:
        counted = ", ".join(f"{s.count:,} {_bond(z)} ({s.spread:.3f} Å)" for z, s in seen.springs.items() if s.count)
        evidence = (
            f"cannot be checked: {MIN_BONDS} bonds of hydrogen are needed, with lengths that vary by {MIN_SPREAD} Å, "
            f"in molecules with forces that are not minima; there are {counted or 'none'}"
        )
        return Finding(check=check, verdict="not checked", evidence=evidence)
    z, spring = max(usable.items(), key=lambda item: item[1].count)
    evidence = (
        f"{_bond(z)} bonds pull back with {spring.constant:.3g} eV/Å² ({SPRING[z]:.2g} expected), correlation "
        f"{spring.correlation:.2f}, {spring.count:,} bonds"
    )
    if abs(spring.correlation) < UNRELATED:
        fix = "the forces do not belong to these positions: are they of other frames, or turned?"
        return Finding(check=check, verdict="fault", evidence=evidence, fix=fix)
    if abs(spring.correlation) < CORRELATED:
        fix = "forces and bond lengths fit badly; are the forces converged, and of these positions?"
        return Finding(check=check, verdict="warning", evidence=evidence, fix=fix)
    ratio = abs(spring.constant) / SPRING[z]
    problems = ["negate the forces: they are gradients"] if spring.constant < 0 else []
    if not SOFT < ratio < STIFF:
        mismatch, unit = min((abs(math.log(ratio / factor)), unit) for factor, unit in UNITS)
        guess = f"they look like {unit}" if mismatch < math.log(2) else "their unit is unknown"
        problems.append(f"convert the forces: {guess} ({ratio:.3g} times what is expected in eV/Å)")
    return Finding(check=check, verdict="fault" if problems else "ok", evidence=evidence, fix="; ".join(problems))


def check_force_scale(seen: Scan, store: MoleculeStore) -> Finding:
    """Say how large forces are, and warn if that is unusual."""
    known = np.isfinite(seen.mean_square_force)
    if not known.any():
        return Finding(check="size of forces", verdict="not checked", evidence="there are no forces")
    rms = float(np.sqrt(seen.mean_square_force[known].mean()))
    evidence = f"{rms:.3g} eV/Å (root mean square of an atom), at most {np.nanmax(seen.max_force):.3g} eV/Å"
    minima = np.concatenate([s.is_equilibrium for s in store.shards])
    if rms == 0.0 or (rms < 0.02 and not minima[known].all()) or rms > 20.0:
        fix = "frames at 300 K have 1 to 3 eV/Å; is the unit right, or are these minima?"
        return Finding(check="size of forces", verdict="warning", evidence=evidence, fix=fix)
    return Finding(check="size of forces", verdict="ok", evidence=evidence)


class _Balance(NamedTuple):
    check: str
    median: float
    evidence: str


def check_balance(seen: Scan) -> list[Finding]:
    """Find net forces and torques, which a molecule in empty space does not have."""
    felt = seen.max_force > 0.05  # below, rounding of the forces of a minimum looks like imbalance
    if not felt.any():
        why = "there are no forces" if not np.isfinite(seen.max_force).any() else "all forces are below 0.05 eV/Å"
        return [Finding(check=c, verdict="not checked", evidence=why) for c in ("net force", "torque")]
    net, torque = float(np.median(seen.net_force_part[felt])), float(np.median(seen.torque_part[felt]))
    found = [
        _Balance(
            "net force",
            net,
            f"{net:.1e} of the sum of all sizes (median), {np.median(seen.net_force[felt]):.2g} eV/Å; at most "
            f"{seen.net_force[felt].max():.2g} eV/Å",
        ),
        _Balance(
            "torque", torque, f"{torque:.1e} of the sum of all (median), at most {seen.torque_part[felt].max():.1e}"
        ),
    ]
    fixes = {
        "net force": "are atoms missing, or is there a field? a model of a free molecule cannot have a net force",
        "torque": "the forces belong to other frames or another orientation, or the data is periodic",
    }
    return [
        Finding(
            check=b.check,
            verdict="fault" if b.median > UNBALANCED else "ok",
            evidence=b.evidence,
            fix=fixes[b.check] if b.median > UNBALANCED else "",
        )
        for b in found
    ]


def check_force_outliers(seen: Scan) -> Finding:
    """Find molecules with huge forces, and those out of balance among balanced ones."""
    if not np.isfinite(seen.max_force).any():
        return Finding(check="outliers of forces", verdict="not checked", evidence="there are no forces")
    huge = seen.max_force > LARGE_FORCE
    tilted = (seen.net_force_part > 10 * UNBALANCED) | (seen.torque_part > 10 * UNBALANCED)
    tilted &= seen.max_force > 0.05
    problems = []
    if huge.any():
        problems.append(f"{int(huge.sum()):,} molecules have a force above {LARGE_FORCE:g} eV/Å ({first_of(huge)})")
    if tilted.any() and tilted.mean() < 0.5:
        problems.append(f"{int(tilted.sum()):,} are out of balance ({first_of(tilted)})")
    if problems:
        fix = "is the unit of the forces right?" if huge.mean() > 0.5 else "leave them out, or clip their forces"
        return Finding(check="outliers of forces", verdict="warning", evidence="; ".join(problems), fix=fix)
    return Finding(check="outliers of forces", verdict="ok", evidence=f"no force above {LARGE_FORCE:g} eV/Å")


def _bond(z: int) -> str:
    return f"{chemical_symbols[z]}-H"
