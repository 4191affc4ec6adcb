"""The doctor of data: every check, with its verdict, the numbers behind it, and what to do.

A *fault* is data that a model should not be trained on as it is. A *warning* is something to know before training. What
the data does not allow to check is said to be unchecked, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from basinet.data.doctor.check import ConsistencyReport, check_consistency
from basinet.data.doctor.duplicates import EXACT, NEAR, SAMPLE, Duplicates, find_duplicates
from basinet.data.doctor.energies import EnergyFit, check_energies, fit_energies
from basinet.data.doctor.findings import N_NAMED, Finding, Verdict, first_of, worst
from basinet.data.doctor.forces import check_balance, check_force_outliers, check_force_scale, check_springs
from basinet.data.doctor.leaks import find_leaks
from basinet.data.doctor.scan import MAX_ATOMS, Scan, scan
from basinet.data.store.store import MoleculeStore

MAX_SOUND = 100_000
"""Molecules that are copied and looked at if others hold NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings about one store, and the numbers behind them for figures."""

    name: str
    store: MoleculeStore
    findings: Sequence[Finding]
    scan: Scan
    consistency: ConsistencyReport
    energies: EnergyFit | None

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
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
        store: any molecules.
        name: what to call it.
        against: other data, such as a test set, that must not hold the same conformations.
        reading: findings made while the data was read.
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
        raise ValueError("every molecule of the store holds NaN or infinity; there is nothing to examine")
    kept = MoleculeStore.from_molecules([store[i] for i in sound], source=store.manifest.source)
    return kept, scan(kept)


def check_finite(seen: Scan) -> Finding:
    """Find positions and labels that are not numbers."""
    bad = seen.not_finite
    if not bad.any():
        return Finding(check="numbers", verdict="ok", evidence="all positions and labels are finite")
    evidence = (
        f"{int(bad.sum()):,} molecules hold NaN or infinity ({first_of(bad)}); the other checks are of up to "
        f"{MAX_SOUND:,} molecules without, numbered anew"
    )
    return Finding(check="numbers", verdict="fault", evidence=evidence, fix="leave these molecules out")


def check_elements(store: MoleculeStore) -> Finding:
    """Say which elements there are, and warn of those too rare to learn."""
    counts = store.manifest.elements
    evidence = ", ".join(f"{symbol} {count:,}" for symbol, count in counts.items())
    rare = [symbol for symbol, count in counts.items() if count < 100 and count < 0.001 * sum(counts.values())]
    if not rare:
        return Finding(check="elements", verdict="ok", evidence=evidence)
    fix = f"leave out the molecules with {', '.join(rare)}, or find more of them: so few teach a model nothing"
    return Finding(check="elements", verdict="warning", evidence=evidence, fix=fix)


def check_charges(seen: Scan) -> Finding:
    """Say which charges there are, and warn of odd numbers of electrons."""
    values, counts = np.unique(seen.charges, return_counts=True)
    evidence = ", ".join(f"{count:,} of {value:+d} e" for value, count in zip(values, counts, strict=True))
    evidence = "all molecules are neutral" if values.tolist() == [0] else evidence
    if not seen.odd.any():
        return Finding(check="charges", verdict="ok", evidence=f"{evidence}; even numbers of electrons")
    evidence += f"; {int(seen.odd.sum()):,} have an odd number of electrons ({first_of(seen.odd)})"
    fix = "are they radicals, or is their charge not on record? a model sees neither charge nor spin"
    return Finding(check="charges", verdict="warning", evidence=evidence, fix=fix)


def check_labels(store: MoleculeStore) -> list[Finding]:
    """Say how many molecules have each label, and how many each term of a loss can use."""
    n, counts = len(store), store.label_counts
    partial = [name for name, count in counts.items() if count < n]
    evidence = ", ".join(f"{name} of {count:,}" for name, count in counts.items()) or "none"
    lacking = [name for name in ("energy", "forces") if name not in counts]
    evidence += f"; of {n:,} molecules" + (f"; no {' and no '.join(lacking)}" if lacking else "")
    verdict: Literal["ok", "warning"] = "warning" if partial else "ok"
    fix = f"some molecules lack {', '.join(partial)}: is that meant? terms of a loss leave them out" if partial else ""
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
    found = Finding(check="labels", verdict=verdict, evidence=evidence, fix=fix)
    if any(usable.values()):
        return [found, Finding(check="loss terms", verdict="ok", evidence=f"molecules of use to each: {terms}")]
    fix = "name the columns of the labels, or say that the geometries are minima"
    return [found, Finding(check="loss terms", verdict="warning", evidence="no term can use any molecule", fix=fix)]


def check_work(consistency: ConsistencyReport) -> Finding:
    """Compare energy changes between frames with the work of the forces."""
    check = "energy against forces"
    if consistency.n_pairs == 0 and consistency.verdict == "inconsistent":  # wrong lengths, told elsewhere
        return Finding(check=check, verdict="not checked", evidence="the positions are not in Å")
    match consistency.verdict:
        case "consistent":
            return Finding(check=check, verdict="ok", evidence=consistency.reason)
        case "inconsistent":
            fix = "negate the forces" if (consistency.slope or 1.0) < 0 else "give the right unit or the right labels"
            return Finding(check=check, verdict="fault", evidence=consistency.reason, fix=fix)
        case _:
            return Finding(check=check, verdict="not checked", evidence=f"cannot be checked: {consistency.reason}")


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


MANY = 0.05
"""Part of the data; above it a random split is sure to test on what it trained on."""
FEW_ATOMS = 3
"""Molecules of so few atoms come close to each other by chance, in a fine scan of a diatomic for one."""
DIFFERENT_ENERGY = 0.01
"""eV; copies whose energies differ by more contradict each other."""


def check_duplicates(store: MoleculeStore) -> Finding:
    """Find copies within the data, and copies with different energies."""
    found = find_duplicates(store)
    copies = found.differences < EXACT
    evidence = _evidence(found, "other molecules" if found.n_compared == len(store) else "others of a sample")
    contradicting = copies & (_energy_difference(store, found) > DIFFERENT_ENERGY)
    if contradicting.any():
        evidence += (
            f"; {int(contradicting.sum()):,} have another energy than their copy ({_pairs(found, contradicting)})"
        )
        fix = "the labels are of other frames, or of two levels of theory: find out which, and keep one"
        return Finding(check="duplicates", verdict="fault", evidence=evidence, fix=fix)
    if not len(found.rows):
        return Finding(check="duplicates", verdict="ok", evidence=evidence)
    evidence += f" ({_pairs(found, copies if copies.any() else found.differences < NEAR)})"
    larger = copies & (store.atoms_per_molecule[found.rows] > FEW_ATOMS)
    verdict = "fault" if larger.sum() > MANY * found.n_compared else "warning"
    fix = "remove copies before a random split, or the test set holds what was trained on"
    if not found.n_exact:
        fix = "do these follow each other, or is a minimum there twice? a random split tests on what it trained on"
    return Finding(check="duplicates", verdict=verdict, evidence=evidence, fix=fix)


def check_overlap(store: MoleculeStore, other: MoleculeStore) -> Finding:
    """Find conformations of one store that are in another one."""
    check = "in both data sets"
    leaks, found = find_leaks(store, other), find_duplicates(store, other)
    sampled = f" (samples of {SAMPLE:,})" if SAMPLE in (found.n_compared, found.n_partners) else ""
    evidence = f"{leaks}; {found.n_near:,} are nearly in both (all distances within {NEAR:g} Å){sampled}"
    unknown = sorted(set(store.manifest.elements) ^ set(other.manifest.elements))
    if len(leaks.rows):
        fix = "remove the copies from one of the two: a test on them is no test"
        return Finding(check=check, verdict="fault", evidence=evidence, fix=fix)
    if len(found.rows):
        fix = "nearly the same conformations make a test easy; split by trajectory or by compound"
        return Finding(check=check, verdict="warning", evidence=evidence, fix=fix)
    if unknown:
        fix = f"{', '.join(unknown)} only in one of the two: is that meant?"
        return Finding(check=check, verdict="warning", evidence=evidence, fix=fix)
    return Finding(check=check, verdict="ok", evidence=evidence)


def _evidence(found: Duplicates, others: str) -> str:
    sampled = f" (samples of {SAMPLE:,})" if SAMPLE in (found.n_compared, found.n_partners) else ""
    return (
        f"{found.n_exact:,} of {found.n_compared:,} molecules are copies of {others} (all distances within "
        f"{EXACT:g} Å), {found.n_near:,} nearly so (within {NEAR:g} Å){sampled}"
    )


def _pairs(found: Duplicates, chosen: np.ndarray) -> str:
    """Name some molecules with the ones they are like, each pair once."""
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
