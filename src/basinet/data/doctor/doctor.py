"""The doctor of data: every check, with its verdict, the numbers behind it, and what to do.

A *fault* is data that a model should not be trained on as it is. A *warning* is something to know before training. What
the data does not allow to check is said to be unchecked, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from basinet.data.doctor.check import ConsistencyReport, check_consistency
from basinet.data.doctor.energies import EnergyFit, check_energies, fit_energies
from basinet.data.doctor.findings import Finding, Verdict, first_of, worst
from basinet.data.doctor.forces import check_balance, check_force_outliers, check_force_scale, check_springs
from basinet.data.doctor.geometry import check_lengths, check_pieces, check_touching
from basinet.data.doctor.repeats import check_duplicates, check_overlap
from basinet.data.doctor.scan import Scan, scan
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
