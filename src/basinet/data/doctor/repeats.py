"""Checks for conformations that are there twice: within the data, or in a test set too."""

import numpy as np

from basinet.data.doctor.duplicates import EXACT, NEAR, SAMPLE, Duplicates, find_duplicates
from basinet.data.doctor.findings import N_NAMED, Finding
from basinet.data.doctor.leaks import find_leaks
from basinet.data.store.store import MoleculeStore

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
