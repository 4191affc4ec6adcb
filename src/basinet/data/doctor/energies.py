"""Check energies: unit, fit by one energy per element, outliers."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from basinet.data.doctor.duplicates import formulas
from basinet.data.doctor.findings import Check, Finding, first_of
from basinet.data.store.store import MoleculeStore
from basinet.models.heads.fit import ReferenceFit, composition, fit_references
from basinet.units import HARTREE, KCAL_PER_MOL, KJ_PER_MOL, MEV

FIT_SAMPLE = 20_000
"""Largest number of molecules in the fit of reference energies; more are sampled."""
BATCH = 5000
ATOM_ENERGY = (
    *(0.5, 2.9037, 7.4781, 14.6674, 24.6539, 37.8450, 54.5892, 75.0673, 99.7339),
    *(128.9376, 162.2546, 200.053, 242.346, 289.359, 341.259, 398.110, 460.148, 527.540),
)
"""Minus the total energies of the atoms from hydrogen to argon, hartree, non-relativistic (Chakravorty et al., Phys.
Rev. A 47 (1993) 3649). All-electron energies of molecules are 0 to 3 % above their sums in size."""
TOTAL = (0.99, 1.03)
"""Range of all-electron total energies over the sum of the atoms."""
OTHER_UNITS = (
    (1 / HARTREE, "hartree"),
    (1 / KCAL_PER_MOL, "kcal/mol"),
    (1 / KJ_PER_MOL, "kJ/mol"),
    (1 / MEV, "meV"),
)
MIN_COMPOUNDS = 5
"""Different sum formulas whose energies must point to another unit for a fault."""
FAR_OFF = 25.0
"""Residual over the usual deviation (1.48 times the median size) that makes an outlier."""
ABSURD = 10.0
"""Residual that is certainly wrong, eV per atom: more than any bond energy."""
EXPLAINED = 0.5
"""Expected fraction of the variance over sum formulas that the elements explain; above 0.98 in published data."""


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
        """Number of sum formulas."""
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
    chosen = np.arange(len(rows))
    if len(rows) > FIT_SAMPLE:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), FIT_SAMPLE, replace=False))
    sample = [composition(store.gather(rows[chosen[i : i + BATCH]])) for i in range(0, len(chosen), BATCH)]
    fit = fit_references(torch.cat(sample), torch.from_numpy(energies[chosen]))
    predicted, atom_sum = np.empty(len(rows)), np.empty(len(rows))
    formula = np.empty(len(rows), dtype=np.int64)
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        batch = store.gather(rows[part])
        counts = composition(batch)
        predicted[part] = (counts @ fit.energies).numpy()
        atom_sum[part] = _atom_sums(counts)
        formula[part] = formulas(batch)
    return EnergyFit(
        fit=fit,
        rows=rows,
        energies=energies,
        residuals=energies - predicted,
        n_atoms=store.atoms_per_molecule[rows],
        formulas=np.unique(formula, return_inverse=True)[1].reshape(-1).astype(np.int64),
        atom_sum=atom_sum,
        n_fitted=len(chosen),
    )


def _atom_sums(counts: Float64[torch.Tensor, "n n_elements"]) -> Float64[np.ndarray, " n"]:
    """Return the sums of the energies of the atoms, eV; NaN for molecules with elements beyond argon."""
    n_known = 1 + len(ATOM_ENERGY)
    sums = counts[:, :n_known] @ (-HARTREE * torch.tensor((0.0, *ATOM_ENERGY), dtype=torch.float64))
    return torch.where((counts[:, n_known:] == 0).all(1), sums, torch.nan).numpy()


def check_energies(found: EnergyFit | None, *, fit_forces: bool) -> list[Finding]:
    """Return the findings about unit, fit and outliers of energies.

    Args:
        found: the fit; ``None`` if there are no energies.
        fit_forces: energies are known to fit the forces, and so to belong to these molecules.
    """
    if found is None:
        checks = ("unit of energies", "reference energies", "outliers of energies")
        return [Check(c).not_checked("there are no energies") for c in checks]
    return [_check_unit(found), _check_fit(found, fit_forces), _check_outliers(found)]


def _check_unit(found: EnergyFit) -> Finding:
    """Compare total energies with sums of atoms; this recognises all-electron energies only."""
    check = Check("unit of energies")
    ratio = found.energies / found.atom_sum
    ratio = ratio[np.isfinite(ratio)]
    if len(ratio) == 0:
        return check.not_checked("every molecule has elements beyond argon")
    median, low, high = np.quantile(ratio, [0.5, 0.01, 0.99]).tolist()
    evidence = f"{median:.4g} times the sum of all-electron atoms in eV (1 % to 99 %: {low:.4g} to {high:.4g})"
    if TOTAL[0] < median < TOTAL[1]:
        return check.ok(f"{evidence}: total energies in eV")
    for factor, unit in OTHER_UNITS:
        if TOTAL[0] < low / factor and high / factor < TOTAL[1]:
            fix = f"these look like total energies in {unit}: give the energy unit"
            sure = found.n_formulas >= MIN_COMPOUNDS
            return check.found("fault" if sure else "warning", evidence, fix)
    evidence = f"{evidence}, so relative, valence-only or atomisation energies, whose unit cannot be recognised"
    return check.not_checked(evidence)


def _check_fit(found: EnergyFit, fit_forces: bool) -> Finding:
    """Check whether the data determines one energy per element, and the variance they explain."""
    fit, check = found.fit, Check("reference energies")
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
                fix = "each compound has its own zero of energy: one model cannot learn total energies from these"
                return check.warning(evidence, fix)
            fix = "do the energies belong to these molecules? energies relative to a minimum are no total energies"
            return check.fault(evidence, fix)
    if fit.rank < min(fit.n_elements, found.n_formulas):
        fix = "reference energies of single elements are undetermined: other compositions are extrapolation"
        return check.warning(evidence, fix)
    return check.ok(evidence)


def _check_outliers(found: EnergyFit) -> Finding:
    """Find energies far from the others of their sum formula, or from the fit if there are few."""
    check = Check("outliers of energies")
    per_atom = _above_formula(found) / found.n_atoms
    usual = _spread(per_atom)
    size = np.abs(per_atom)
    far = size > FAR_OFF * max(usual, 1e-4)
    evidence = f"usual deviation {1000 * usual:.3g} meV/atom, largest {1000 * size.max():.4g} meV/atom"
    if not far.any():
        return check.ok(evidence)
    evidence += f"; {int(far.sum()):,} are more than {FAR_OFF:g} times the usual ({first_of(far, found.rows)})"
    fix = "leave them out: their calculation failed, or they belong to other molecules"
    absurd = bool((size > ABSURD).any())
    return check.found("fault" if absurd else "warning", evidence, fix)


def _above_formula(found: EnergyFit) -> Float64[np.ndarray, " n"]:
    """Return the residuals, relative to the median of the sum formula if it has ten molecules."""
    values = found.residuals.copy()
    order = np.argsort(found.formulas, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(found.formulas[order])) + 1):
        if len(group) >= 10:
            values[group] -= np.median(values[group])
    return values


def _spread(values: Float64[np.ndarray, " n"]) -> float:
    """Return a robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
