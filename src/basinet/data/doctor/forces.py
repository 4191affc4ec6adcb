r"""Check forces: unit and sign from stretched bonds, balance, outliers.

A stretched bond of hydrogen pulls the hydrogen back in any molecule, so even data with one conformation of each
molecule shows the unit and the sign of its forces. Over all such bonds

.. math:: f \approx -k\,(r - r_0), \qquad f = F_H \cdot (r_H - r_X) / |r_H - r_X|

with a force constant :math:`k` known from vibrational spectra to some ten percent. In published data the measured
constants are 0.6 to 1.2 times those below, with correlations of -0.84 to -0.99.
"""

import math

import numpy as np
from ase.data import chemical_symbols

from basinet.data.doctor.findings import Check, Finding, first_of
from basinet.data.doctor.scan import Scan
from basinet.data.store.store import MoleculeStore
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL, KJ_PER_MOL, MEV

SPRING = {6: 31.0, 7: 42.0, 8: 48.0}
"""Force constants of bonds of hydrogen to carbon, nitrogen and oxygen, eV/Å²: 5.0, 6.7 and 7.7 mdyn/Å."""
MIN_BONDS, MIN_SPREAD = 30, 0.012
"""Needed bonds of one kind and standard deviation of their length, Å. In the minima of QM9 lengths vary by less, for
chemical reasons."""
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
"""Unit of the forces, by the factor of a force constant that is too large."""
UNBALANCED = 0.03
"""Limit of net force or torque over the sum of the sizes; the median of published data is below 0.002."""
LARGE_FORCE = 30.0
"""Force that is an outlier, eV/Å. The largest in rMD17 at 500 K is 11."""


def check_springs(seen: Scan, store: MoleculeStore) -> Finding:
    """Derive unit and sign of forces from stretched bonds of hydrogen."""
    check = Check("unit of forces")
    if "forces" not in store.label_counts:
        return check.not_checked("there are no forces")
    usable = {z: s for z, s in seen.springs.items() if s.count >= MIN_BONDS and s.spread >= MIN_SPREAD}
    if not usable:
        counted = ", ".join(f"{s.count:,} {_bond(z)} ({s.spread:.3f} Å)" for z, s in seen.springs.items() if s.count)
        evidence = (
            f"needs {MIN_BONDS} bonds of hydrogen whose lengths vary by {MIN_SPREAD} Å, in molecules with forces "
            f"that are not minima; there are {counted or 'none'}"
        )
        return check.not_checked(evidence)
    z, spring = max(usable.items(), key=lambda item: item[1].count)
    evidence = (
        f"{_bond(z)} bonds pull back with {spring.constant:.3g} eV/Å² ({SPRING[z]:.2g} expected), correlation "
        f"{spring.correlation:.2f}, {spring.count:,} bonds"
    )
    if abs(spring.correlation) < UNRELATED:
        fix = "the forces do not belong to these positions: are they from other frames, or rotated?"
        return check.fault(evidence, fix)
    if abs(spring.correlation) < CORRELATED:
        fix = (
            "forces and bond lengths correlate badly: are the forces converged, and do they belong to these positions?"
        )
        return check.warning(evidence, fix)
    ratio = abs(spring.constant) / SPRING[z]
    problems = ["negate the forces: they are gradients"] if spring.constant < 0 else []
    if not SOFT < ratio < STIFF:
        mismatch, unit = min((abs(math.log(ratio / factor)), unit) for factor, unit in UNITS)
        guess = f"they look like {unit}" if mismatch < math.log(2) else "their unit is unknown"
        problems.append(f"convert the forces: {guess} ({ratio:.3g} times what is expected in eV/Å)")
    return check.found("fault" if problems else "ok", evidence, "; ".join(problems))


def check_force_scale(seen: Scan, store: MoleculeStore) -> Finding:
    """Measure the size of forces; warn if it is unusual."""
    check = Check("size of forces")
    known = np.isfinite(seen.mean_square_force)
    if not known.any():
        return check.not_checked("there are no forces")
    rms = float(np.sqrt(seen.mean_square_force[known].mean()))
    evidence = f"{rms:.3g} eV/Å (root mean square of an atom), at most {np.nanmax(seen.max_force):.3g} eV/Å"
    minima = np.concatenate([s.is_equilibrium for s in store.shards])
    if rms == 0.0 or (rms < 0.02 and not minima[known].all()) or rms > 20.0:
        fix = "frames at 300 K have 1 to 3 eV/Å; is the unit right, or are these minima?"
        return check.warning(evidence, fix)
    return check.ok(evidence)


def check_balance(seen: Scan) -> list[Finding]:
    """Find net forces and torques, which an isolated molecule does not have."""
    net_check, torque_check = Check("net force"), Check("torque")
    felt = seen.max_force > 0.05  # below, rounding of the forces of a minimum looks like imbalance
    if not felt.any():
        why = "there are no forces" if not np.isfinite(seen.max_force).any() else "all forces are below 0.05 eV/Å"
        return [net_check.not_checked(why), torque_check.not_checked(why)]
    net, torque = float(np.median(seen.net_force_part[felt])), float(np.median(seen.torque_part[felt]))
    of_net = (
        f"{net:.1e} of the sum of all sizes (median), {np.median(seen.net_force[felt]):.2g} eV/Å; at most "
        f"{seen.net_force[felt].max():.2g} eV/Å"
    )
    of_torque = f"{torque:.1e} of the sum of all (median), at most {seen.torque_part[felt].max():.1e}"
    fix_net = "are atoms missing, or is there a field? an isolated molecule has no net force"
    fix_torque = "the forces belong to other frames or another orientation, or the data is periodic"
    return [
        net_check.fault(of_net, fix_net) if net > UNBALANCED else net_check.ok(of_net),
        torque_check.fault(of_torque, fix_torque) if torque > UNBALANCED else torque_check.ok(of_torque),
    ]


def check_force_outliers(seen: Scan) -> Finding:
    """Find molecules with huge forces, and unbalanced ones among balanced ones."""
    check = Check("outliers of forces")
    if not np.isfinite(seen.max_force).any():
        return check.not_checked("there are no forces")
    huge = seen.max_force > LARGE_FORCE
    tilted = (seen.net_force_part > 10 * UNBALANCED) | (seen.torque_part > 10 * UNBALANCED)
    tilted &= seen.max_force > 0.05
    problems = []
    if huge.any():
        problems.append(f"{int(huge.sum()):,} molecules have a force above {LARGE_FORCE:g} eV/Å ({first_of(huge)})")
    if tilted.any() and tilted.mean() < 0.5:
        problems.append(f"{int(tilted.sum()):,} are unbalanced ({first_of(tilted)})")
    if problems:
        fix = "is the unit of the forces right?" if huge.mean() > 0.5 else "leave them out, or clip their forces"
        return check.warning("; ".join(problems), fix)
    return check.ok(f"no force above {LARGE_FORCE:g} eV/Å")


def _bond(z: int) -> str:
    return f"{chemical_symbols[z]}-H"
