"""Checks of energies: their unit, their fit by one energy per element, their outliers."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from basinet.data.doctor.findings import Finding, first_of
from basinet.data.store.store import MoleculeStore
from basinet.models.heads.fit import ReferenceFit, composition, fit_references
from basinet.units import HARTREE, KCAL_PER_MOL, KJ_PER_MOL, MEV

FIT_SAMPLE = 20_000
"""Molecules that the reference energies are fitted to; of more, a random part."""
BATCH = 5000
ATOM_ENERGY = (
    *(0.5, 2.9037, 7.4781, 14.6674, 24.6539, 37.8450, 54.5892, 75.0673, 99.7339),
    *(128.9376, 162.2546, 200.053, 242.346, 289.359, 341.259, 398.110, 460.148, 527.540),
)
"""Minus the total energies of the atoms from hydrogen to argon, hartree, non-relativistic (Chakravorty et al., Phys.
Rev. A 47 (1993) 3649). All-electron energies of molecules are 0 to 3 % above their sums in size."""
TOTAL = (0.99, 1.03)
"""All-electron total energy over the sum of its atoms."""
OTHER_UNITS = (
    (1 / HARTREE, "hartree"),
    (1 / KCAL_PER_MOL, "kcal/mol"),
    (1 / KJ_PER_MOL, "kJ/mol"),
    (1 / MEV, "meV"),
)
MIN_COMPOUNDS = 5
"""Different sum formulas whose energies must all point to another unit before it is called one."""
FAR_OFF = 25.0
"""Times the usual deviation (1.48 times the median size) at which a residual is called an outlier."""
ABSURD = 10.0
"""eV per atom; more than any bond is worth, so such an energy is of something else."""
EXPLAINED = 0.5
"""Part of the variance of energies over sum formulas that the elements explain; 0.98 and more in published data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFit:
    """Energies after the fit of one energy per element."""

    fit: ReferenceFit
    rows: Int64[np.ndarray, " n"]
    """Molecules with an energy."""
    energies: Float64[np.ndarray, " n"]
    """eV."""
    residuals: Float64[np.ndarray, " n"]
    """eV."""
    n_atoms: Int64[np.ndarray, " n"]
    formulas: Int64[np.ndarray, " n"]
    """A number for each sum formula."""
    atom_sum: Float64[np.ndarray, " n"]
    """Sum of the energies of the atoms, eV; NaN with elements beyond argon."""
    n_fitted: int

    @property
    def n_formulas(self) -> int:
        """Different sum formulas."""
        return len(np.unique(self.formulas))


def fit_energies(store: MoleculeStore) -> EnergyFit | None:
    """Fit one energy per element; ``None`` if no molecule has an energy."""
    if "energy" not in store.label_counts:
        return None
    has = np.concatenate(
        [s.has["energy"] if "energy" in s.has else np.zeros(s.n_molecules, bool) for s in store.shards]
    )
    rows = np.flatnonzero(has)
    energies = np.concatenate([s.labels.get("energy", np.full(s.n_molecules, np.nan)) for s in store.shards])[rows]
    rows, energies = rows[np.isfinite(energies)], energies[np.isfinite(energies)]
    if len(rows) == 0:
        return None
    fitted = rows
    if len(rows) > FIT_SAMPLE:
        fitted = np.sort(np.random.default_rng(0).choice(len(rows), FIT_SAMPLE, replace=False))
        fitted, fitted_energies = rows[fitted], energies[fitted]
    else:
        fitted_energies = energies
    fit = fit_references(_composition(store, fitted), torch.from_numpy(fitted_energies))
    predicted, atom_sum = np.empty(len(rows)), np.empty(len(rows))
    formulas = np.empty(len(rows), dtype=np.int64)
    weights = torch.from_numpy(np.random.default_rng(1).integers(1, 2**40, 100)).double()
    atoms = torch.full((100,), torch.nan, dtype=torch.float64)
    atoms[0] = 0.0
    atoms[1 : 1 + len(ATOM_ENERGY)] = -HARTREE * torch.tensor(ATOM_ENERGY, dtype=torch.float64)
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        counts = _composition(store, rows[part])
        predicted[part] = (counts @ fit.energies).numpy()
        known = (counts[:, 1 + len(ATOM_ENERGY) :] == 0).all(1)
        atom_sum[part] = torch.where(known, counts @ atoms.nan_to_num(), torch.nan).numpy()
        formulas[part] = (counts @ weights).long().numpy()
    return EnergyFit(
        fit=fit,
        rows=rows,
        energies=energies,
        residuals=energies - predicted,
        n_atoms=store.atoms_per_molecule[rows],
        formulas=np.unique(formulas, return_inverse=True)[1].reshape(-1).astype(np.int64),
        atom_sum=atom_sum,
        n_fitted=len(fitted),
    )


def check_energies(found: EnergyFit | None, *, fit_forces: bool) -> list[Finding]:
    """Return the findings about the unit, the fit and the outliers of energies.

    Args:
        found: the fit; ``None`` if there are no energies.
        fit_forces: whether energies are known to fit the forces, and so to belong to these molecules.
    """
    if found is None:
        checks = ("unit of energies", "reference energies", "outliers of energies")
        return [Finding(check=c, verdict="not checked", evidence="there are no energies") for c in checks]
    return [_check_unit(found), _check_fit(found, fit_forces), _check_outliers(found)]


def _check_unit(found: EnergyFit) -> Finding:
    """Compare total energies with sums of atoms; only all-electron energies can be told."""
    check = "unit of energies"
    ratio = found.energies / found.atom_sum
    ratio = ratio[np.isfinite(ratio)]
    if len(ratio) == 0:
        return Finding(
            check=check, verdict="not checked", evidence="cannot be checked: every molecule has elements beyond argon"
        )
    median, low, high = np.quantile(ratio, [0.5, 0.01, 0.99]).tolist()
    evidence = f"{median:.4g} times the sum of all-electron atoms in eV (1 % to 99 %: {low:.4g} to {high:.4g})"
    if TOTAL[0] < median < TOTAL[1]:
        return Finding(check=check, verdict="ok", evidence=f"{evidence}: total energies in eV")
    for factor, unit in OTHER_UNITS:
        if TOTAL[0] < low / factor and high / factor < TOTAL[1]:
            fix = f"these look like total energies in {unit}: give the energy unit"
            sure = found.n_formulas >= MIN_COMPOUNDS
            return Finding(check=check, verdict="fault" if sure else "warning", evidence=evidence, fix=fix)
    evidence = f"cannot be checked from size: {evidence}, so relative, valence-only or atomisation energies"
    return Finding(check=check, verdict="not checked", evidence=evidence)


def _check_fit(found: EnergyFit, fit_forces: bool) -> Finding:
    """Say whether the data determines one energy per element, and what they explain."""
    fit, check = found.fit, "reference energies"
    fitted = f"fitted to {found.n_fitted:,}" + (f" of {len(found.rows):,}" if found.n_fitted < len(found.rows) else "")
    evidence = (
        f"rank {fit.rank} of {fit.n_elements} elements, {found.n_formulas:,} sum formulas, {fitted} molecules, "
        f"{1000 * _spread(found.residuals / found.n_atoms):.3g} meV/atom left"
    )
    means = np.bincount(found.formulas, found.energies) / np.bincount(found.formulas)
    left = np.bincount(found.formulas, found.residuals) / np.bincount(found.formulas)
    if found.n_formulas >= 5 * fit.n_elements and np.var(means) > 0:
        explained = 1 - float(np.var(left) / np.var(means))
        evidence += f"; elements explain {100 * explained:.4g} % of the variance over sum formulas"
        if explained < EXPLAINED:
            if fit_forces:
                fix = "each compound has a zero of its own: one model cannot learn total energies from these"
                return Finding(check=check, verdict="warning", evidence=evidence, fix=fix)
            fix = "do the energies belong to these molecules? (energies above a minimum are no total energies either)"
            return Finding(check=check, verdict="fault", evidence=evidence, fix=fix)
    if fit.rank < min(fit.n_elements, found.n_formulas):
        fix = "single reference energies mean nothing here: molecules of other compositions are extrapolation"
        return Finding(check=check, verdict="warning", evidence=evidence, fix=fix)
    return Finding(check=check, verdict="ok", evidence=evidence)


def _check_outliers(found: EnergyFit) -> Finding:
    """Find energies far from those of their sum formula, or where each is alone from the fit."""
    check = "outliers of energies"
    per_atom = _above_formula(found) / found.n_atoms
    usual = _spread(per_atom)
    size = np.abs(per_atom)
    far = size > FAR_OFF * max(usual, 1e-4)
    evidence = f"usual deviation {1000 * usual:.3g} meV/atom, largest {1000 * size.max():.4g} meV/atom"
    if not far.any():
        return Finding(check=check, verdict="ok", evidence=evidence)
    evidence += f"; {int(far.sum()):,} are more than {FAR_OFF:g} times the usual ({first_of(far, found.rows)})"
    fix = "leave them out: their calculation failed, or they are of something else"
    absurd = bool((size > ABSURD).any())
    return Finding(check=check, verdict="fault" if absurd else "warning", evidence=evidence, fix=fix)


def _above_formula(found: EnergyFit) -> Float64[np.ndarray, " n"]:
    """Return the residuals; for sum formulas with ten molecules and more, relative to their median."""
    values = found.residuals.copy()
    order = np.argsort(found.formulas, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(found.formulas[order])) + 1):
        if len(group) >= 10:
            values[group] -= np.median(values[group])
    return values


def _spread(values: Float64[np.ndarray, " n"]) -> float:
    """Return a standard deviation that outliers do not touch."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _composition(store: MoleculeStore, rows: Int64[np.ndarray, " n"]) -> torch.Tensor:
    parts = [composition(store.gather(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
    return torch.cat(parts)
