"""Run every check of data: units, signs, geometries, labels, duplicates.

A *fault* means that a model should not be trained on the data as it is; a *warning* is something to know before
training. A check that the data does not allow is *not checked*, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from basinet.data.doctor.check import ConsistencyReport, check_consistency
from basinet.data.doctor.duplicates import EXACT, NEAR, SAMPLE, Duplicates, find_duplicates
from basinet.data.doctor.energies import EnergyFit, check_energies, fit_energies
from basinet.data.doctor.findings import N_NAMED, Check, Finding, Verdict, first_of, worst
from basinet.data.doctor.forces import check_balance, check_force_outliers, check_force_scale, check_springs
from basinet.data.doctor.leaks import find_leaks
from basinet.data.doctor.scan import MAX_ATOMS, Scan, scan
from basinet.data.store.store import MoleculeStore

MAX_SOUND = 100_000
"""Largest number of molecules copied and checked if others hold NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings about one store, with the numbers behind them for figures."""

    name: str
    store: MoleculeStore
    findings: Sequence[Finding]
    scan: Scan
    consistency: ConsistencyReport
    energies: EnergyFit | None

    @property
    def verdict(self) -> Verdict:
        """The worst verdict."""
        return worst(self.findings)


def examine(
    store: MoleculeStore,
    name: str = "data",
    *,
    against: MoleculeStore | None = None,
    reading: Sequence[Finding] = (),
) -> Diagnosis:
    """Return all findings about a store.

    Args:
        store: molecules to check.
        name: name of the data in the report.
        against: other data, such as a test set, that must not hold the same conformations.
        reading: findings from reading the data.
    """
    seen = scan(store)
    numbers = check_finite(seen)
    if seen.not_finite.any():
        store, seen = _sound_part(store, seen)
    consistency = check_consistency(store)
    energies = fit_energies(store)
    findings = [
        *reading,
        numbers,
        check_elements(store),
        check_charges(seen),
        *check_labels(store),
        check_lengths(seen, consistency),
        check_touching(seen),
        check_pieces(seen),
        check_work(consistency),
        check_springs(seen, store),
        check_force_scale(seen, store),
        *check_balance(seen),
        check_force_outliers(seen),
        *check_energies(energies, fit_forces=consistency.verdict == "consistent"),
        check_duplicates(store),
    ]
    if against is not None:
        findings.append(check_overlap(store, against))
    return Diagnosis(name=name, store=store, findings=findings, scan=seen, consistency=consistency, energies=energies)


def _sound_part(store: MoleculeStore, seen: Scan) -> tuple[MoleculeStore, Scan]:
    """Return the first molecules without NaN, and their scan."""
    sound = np.flatnonzero(~seen.not_finite)[:MAX_SOUND]
    if len(sound) == 0:
        raise ValueError("every molecule of the store holds NaN or infinity; expected finite positions and labels")
    kept = MoleculeStore.from_molecules([store[i] for i in sound], source=store.manifest.source)
    return kept, scan(kept)


def check_finite(seen: Scan) -> Finding:
    """Find positions and labels that are not numbers."""
    check = Check("numbers")
    bad = seen.not_finite
    if not bad.any():
        return check.ok("all positions and labels are finite")
    evidence = (
        f"{int(bad.sum()):,} molecules hold NaN or infinity ({first_of(bad)}); the other checks use up to "
        f"{MAX_SOUND:,} molecules without, numbered anew"
    )
    return check.fault(evidence, "leave these molecules out")


def check_elements(store: MoleculeStore) -> Finding:
    """Count the elements; warn of those too rare to learn."""
    check = Check("elements")
    counts = store.manifest.elements
    evidence = ", ".join(f"{symbol} {count:,}" for symbol, count in counts.items())
    rare = [symbol for symbol, count in counts.items() if count < 100 and count < 0.001 * sum(counts.values())]
    if not rare:
        return check.ok(evidence)
    fix = f"leave out the molecules with {', '.join(rare)}, or add more of them: these are too few to learn from"
    return check.warning(evidence, fix)


def check_charges(seen: Scan) -> Finding:
    """Count the charges; warn of odd numbers of electrons."""
    check = Check("charges")
    values, counts = np.unique(seen.charges, return_counts=True)
    evidence = ", ".join(f"{count:,} of {value:+d} e" for value, count in zip(values, counts, strict=True))
    evidence = "all molecules are neutral" if values.tolist() == [0] else evidence
    if not seen.odd.any():
        return check.ok(f"{evidence}; even numbers of electrons")
    evidence += f"; {int(seen.odd.sum()):,} have an odd number of electrons ({first_of(seen.odd)})"
    fix = "are they radicals, or is their charge missing? a model sees neither charge nor spin"
    return check.warning(evidence, fix)


def check_labels(store: MoleculeStore) -> list[Finding]:
    """Count the molecules with each label, and those each term of a loss can use."""
    n, counts = len(store), store.label_counts
    partial = [name for name, count in counts.items() if count < n]
    evidence = ", ".join(f"{name} of {count:,}" for name, count in counts.items()) or "none"
    lacking = [name for name in ("energy", "forces") if name not in counts]
    evidence += f"; of {n:,} molecules" + (f"; no {' and no '.join(lacking)}" if lacking else "")
    verdict: Literal["ok", "warning"] = "warning" if partial else "ok"
    fix = f"some molecules lack {', '.join(partial)}: is that intended? terms of a loss skip them" if partial else ""
    flags = {"has_energy": counts.get("energy", 0), "has_forces": counts.get("forces", 0)}
    minima = np.concatenate([s.is_equilibrium for s in store.shards])
    rotors = minima & np.concatenate([s.has_bond_orders for s in store.shards])
    usable = {
        "energy": flags["has_energy"],
        "forces": flags["has_forces"],
        "force_denoising": flags["has_forces"],
        "zero_force": int(minima.sum()),
        "denoising": int(minima.sum()),
        "denoising with rotors": int(rotors.sum()),
    }
    terms = ", ".join(f"{term} {count:,}" for term, count in usable.items())
    found = Check("labels").found(verdict, evidence, fix)
    if any(usable.values()):
        return [found, Check("loss terms").ok(f"molecules usable by each: {terms}")]
    fix = "name the columns of the labels, or mark the geometries as minima"
    return [found, Check("loss terms").warning("no term can use any molecule", fix)]


def check_work(consistency: ConsistencyReport) -> Finding:
    """Compare energy changes between frames with the work of the forces."""
    check = Check("energy against forces")
    if consistency.n_pairs == 0 and consistency.verdict == "inconsistent":  # reported by check_lengths
        return check.not_checked("the positions are not in Å")
    match consistency.verdict:
        case "consistent":
            return check.ok(consistency.reason)
        case "inconsistent":
            fix = "negate the forces" if (consistency.slope or 1.0) < 0 else "give the right unit or the right labels"
            return check.fault(consistency.reason, fix)
        case _:
            return check.not_checked(f"cannot be checked: {consistency.reason}")


TOUCHING = 0.55
"""Distance over the sum of covalent radii below which atoms touch. The smallest in rMD17 at 500 K is 0.79, in the
stretched amons of ANI-1x 0.76."""
FAR, LOST = 8.0, 20.0
"""Gaps within a molecule, Å. The dimers of S66x8 at twice their distance are 6.9 Å apart."""


def check_lengths(seen: Scan, consistency: ConsistencyReport) -> Finding:
    """Compare distances of nearest neighbours with sums of covalent radii, to tell whether positions are in Å."""
    check = Check("unit of length")
    ratio = consistency.bond_ratio
    if ratio is None:
        return check.not_checked("no molecule has two atoms")
    evidence = f"nearest neighbours are {ratio:.3f} times the sum of covalent radii apart (median; 1 expected)"
    if consistency.verdict == "inconsistent" and consistency.n_pairs == 0:
        fix = "give the length unit of the file, or do not convert positions that are in Å already"
        return check.fault(consistency.reason, fix)
    if not 0.8 < ratio < 1.25:
        fix = "look at some molecules: most atoms have no bonded neighbour"
        return check.warning(evidence, fix)
    return check.ok(f"{evidence}: Å")


def check_touching(seen: Scan) -> Finding:
    """Find molecules with two atoms closer than any bond."""
    check = Check("touching atoms")
    some = seen.closest[seen.geometry_rows]
    if len(some) == 0:
        return check.not_checked("no molecule has two atoms")
    evidence = f"the closest atoms are {some.min():.2f} times the sum of their covalent radii apart{_sample(seen)}"
    bad = seen.closest < TOUCHING
    if not bad.any():
        return check.ok(evidence)
    evidence += f"; {int(bad.sum()):,} molecules are below {TOUCHING} ({first_of(bad)})"
    return check.warning(evidence, "leave them out unless they are intended")


def check_pieces(seen: Scan) -> Finding:
    """Find molecules whose pieces are far apart."""
    check = Check("pieces")
    some = seen.gap[seen.geometry_rows]
    if len(some) == 0:
        return check.not_checked("no molecule has two atoms")
    evidence = f"the widest gap within a molecule is {some.max():.3g} Å{_sample(seen)}"
    lost, far = seen.gap > LOST, seen.gap > FAR
    if lost.any():
        evidence += f"; in {int(lost.sum()):,} molecules a piece is more than {LOST:g} Å from the rest"
        fix = f"a fragment drifted away or was wrapped around a cell: leave out or repair {first_of(lost)}"
        return check.fault(evidence, fix)
    if far.any():
        evidence += f"; {int(far.sum()):,} molecules have a gap of more than {FAR:g} Å ({first_of(far)})"
        fix = "a model with a cutoff treats their pieces separately"
        return check.warning(evidence, fix)
    return check.ok(evidence)


def _sample(seen: Scan) -> str:
    n = int(np.sum(seen.n_atoms > 1))
    left_out = f", larger than {MAX_ATOMS} atoms left out" if (seen.n_atoms > MAX_ATOMS).any() else ""
    return "" if len(seen.geometry_rows) == n else f" (of {len(seen.geometry_rows):,} of {n:,} molecules{left_out})"


MANY = 0.05
"""Fraction of copies above which a random split certainly tests on training data."""
FEW_ATOMS = 3
"""Molecules of so few atoms are similar by chance, as in a fine scan of a diatomic."""
DIFFERENT_ENERGY = 0.01
"""Energy difference above which copies contradict each other, eV."""


def check_duplicates(store: MoleculeStore) -> Finding:
    """Find copies within the data, and copies with different energies."""
    check = Check("duplicates")
    found = find_duplicates(store)
    copies = found.differences < EXACT
    evidence = _evidence(found, "other molecules" if found.n_compared == len(store) else "others of a sample")
    contradicting = copies & (_energy_difference(store, found) > DIFFERENT_ENERGY)
    if contradicting.any():
        evidence += f"; {int(contradicting.sum()):,} differ in energy from their copy ({_pairs(found, contradicting)})"
        fix = "the labels belong to other frames, or to two levels of theory: find out which, and keep one"
        return check.fault(evidence, fix)
    if not len(found.rows):
        return check.ok(evidence)
    evidence += f" ({_pairs(found, copies if copies.any() else found.differences < NEAR)})"
    larger = copies & (store.atoms_per_molecule[found.rows] > FEW_ATOMS)
    verdict = "fault" if larger.sum() > MANY * found.n_compared else "warning"
    fix = "remove copies before a random split, or the test set holds training data"
    if not found.n_exact:
        fix = "are they consecutive frames, or one minimum twice? a random split then tests on training data"
    return check.found(verdict, evidence, fix)


def check_overlap(store: MoleculeStore, other: MoleculeStore) -> Finding:
    """Find conformations of one store that are in another one."""
    check = Check("in both data sets")
    leaks, found = find_leaks(store, other), find_duplicates(store, other)
    sampled = f" (samples of {SAMPLE:,})" if SAMPLE in (found.n_compared, found.n_partners) else ""
    evidence = f"{leaks}; {found.n_near:,} are nearly in both (all distances within {NEAR:g} Å){sampled}"
    unknown = sorted(set(store.manifest.elements) ^ set(other.manifest.elements))
    if len(leaks.rows):
        fix = "remove the copies from one of the two: a test on training data is no test"
        return check.fault(evidence, fix)
    if len(found.rows):
        fix = "nearly the same conformations make a test easy; split by trajectory or by compound"
        return check.warning(evidence, fix)
    if unknown:
        fix = f"{', '.join(unknown)} only in one of the two: is that intended?"
        return check.warning(evidence, fix)
    return check.ok(evidence)


def _evidence(found: Duplicates, others: str) -> str:
    sampled = f" (samples of {SAMPLE:,})" if SAMPLE in (found.n_compared, found.n_partners) else ""
    return (
        f"{found.n_exact:,} of {found.n_compared:,} molecules are copies of {others} (all distances within "
        f"{EXACT:g} Å), {found.n_near:,} nearly so (within {NEAR:g} Å){sampled}"
    )


def _pairs(found: Duplicates, chosen: np.ndarray) -> str:
    """Name some pairs, each once."""
    rows, partners = found.rows[chosen].tolist(), found.partners[chosen].tolist()
    named = list(
        dict.fromkeys(
            f"{i} and {j}" if (j, i) not in zip(rows, partners, strict=True) or i < j else ""
            for i, j in zip(rows[:50], partners[:50], strict=True)
        )
    )
    named = [name for name in named if name]
    return ", ".join(named[:N_NAMED]) + (" ..." if len(named) > N_NAMED else "")


def _energy_difference(store: MoleculeStore, found: Duplicates) -> np.ndarray:
    energies = store.gather(found.rows).labels.get("energy")
    others = store.gather(found.partners).labels.get("energy")
    if energies is None or others is None:
        return np.zeros(len(found.rows))
    return np.nan_to_num((energies - others).abs().numpy())
