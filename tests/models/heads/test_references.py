import pytest
import torch
from torch import Tensor

from basinet.models.heads.fit import composition, fit_references
from basinet.models.heads.property import PropertyScale
from basinet.structures.batch import Batch, collate
from molecules import AMMONIUM, BENZENE, CARBON_MONOXIDE, ETHANOL, HELIUM, METHANE, SMALL, WATER

ATOMIC = {1: -13.6, 2: -79.0, 6: -1030.5, 7: -1485.3, 8: -2042.6}
"""eV, of the size that density functional theory gives."""


def batch_of(*molecules: object) -> Batch:
    return collate(list(molecules), dtype=torch.float64)


def energies_of(batch: Batch) -> Tensor:
    """Return the sum of the atomic energies of each molecule, eV."""
    table = torch.zeros(100, dtype=torch.float64)
    for number, energy in ATOMIC.items():
        table[number] = energy
    return composition(batch) @ table


def test_the_composition_counts_atoms() -> None:
    counts = composition(batch_of(ETHANOL, HELIUM))
    assert counts.shape == (2, 100)
    assert {k: int(counts[0, k]) for k in (1, 2, 6, 8)} == {1: 6, 2: 0, 6: 2, 8: 1}
    assert counts.sum(1).tolist() == [9, 1]
    assert composition(batch_of(*SMALL).select([])).shape == (0, 100)


def test_atomic_energies_are_recovered_exactly() -> None:
    batch = batch_of(*SMALL)
    fit = fit_references(composition(batch), energies_of(batch))
    for number, energy in ATOMIC.items():
        assert float(fit.energies[number]) == pytest.approx(energy, rel=1e-10)
    assert set(fit.present.nonzero()[:, 0].tolist()) == set(ATOMIC)
    assert fit.energies[~fit.present].tolist() == [0] * 95
    assert (fit.rank, fit.n_elements) == (5, 5)
    assert fit.residual < 1e-8


def test_a_single_molecule_determines_the_sum_of_its_atomic_energies_only() -> None:
    batch = batch_of(ETHANOL)
    fit = fit_references(composition(batch), torch.tensor([-4212.3]))
    assert (fit.rank, fit.n_elements) == (1, 3)
    assert float(composition(batch)[0] @ fit.energies) == pytest.approx(-4212.3, rel=1e-7)
    # The least norm: each element's energy is proportional to how often it occurs.
    assert float(fit.energies[1] / fit.energies[8]) == pytest.approx(6)


def test_energies_no_sum_over_atoms_explains_leave_a_residual() -> None:
    batch = batch_of(METHANE, METHANE)
    fit = fit_references(composition(batch), torch.tensor([-1.0, 1.0]))
    assert fit.residual == pytest.approx(1)


def test_a_ridge_pulls_corrections_to_zero_as_in_the_normal_equations() -> None:
    batch = batch_of(METHANE, WATER, AMMONIUM, BENZENE, CARBON_MONOXIDE)
    counts, target = composition(batch), torch.tensor([0.3, -0.1, 0.2, 0.5, -0.4], dtype=torch.float64)
    fit = fit_references(counts, target, ridge=2.0)
    used = counts[:, fit.present]
    expected = torch.linalg.solve(used.T @ used + 2 * torch.eye(4, dtype=torch.float64), used.T @ target)
    assert (fit.energies[fit.present] - expected).abs().max() < 1e-12
    assert fit_references(counts, target, ridge=1e9).energies.abs().max() < 1e-6


def test_total_energies_keep_nine_digits_after_the_point() -> None:
    references = PropertyScale()
    references.references[6] = -1030.123456789
    batch = collate([BENZENE])  # float32 positions
    references.scale.fill_(1 / 3)
    raw = torch.tensor([750.125], dtype=torch.float32)
    expected = 6 * -1030.123456789 + 750.125 / 3
    assert references(raw, batch).dtype == torch.float64
    assert float(references(raw, batch)[0]) == pytest.approx(expected, abs=1e-9)


def test_the_scale_multiplies_what_the_network_says_and_not_the_references() -> None:
    references, batch = PropertyScale(), batch_of(WATER, HELIUM)
    raw = torch.tensor([6.0, 4.0], dtype=torch.float64)
    assert references(raw, batch).tolist() == [6, 4]
    references.scale.fill_(10)
    references.references[8], references.references[2] = -5, 7
    assert references(raw, batch).tolist() == [55, 47]


def test_casting_a_model_to_float32_keeps_its_reference_energies() -> None:
    references = PropertyScale()
    references.references[6] = -1030.123456789
    for cast in (references.float(), references.to(torch.float32), references.half(), references.double()):
        assert float(cast.references[6]) == -1030.123456789
    assert references.to("meta").references.device.type == "meta"
