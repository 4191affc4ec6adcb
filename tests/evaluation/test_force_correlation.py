import math

import numpy as np
import pytest
from ase.build import molecule as g2
from scipy.spatial.transform import Rotation

from basinet.evaluation.force_correlation import CorrelationCurves, ForceCorrelation
from basinet.evaluation.plots import force_correlation_figure
from basinet.structures.geometry import superposed_rmsd


def filled(scale: float, noise: float = 0.0, n_molecules: int = 200) -> ForceCorrelation:
    """Return molecules of 5 atoms with random reference forces, implied up to a factor and noise."""
    rng = np.random.default_rng(0)
    found = ForceCorrelation()
    for i in range(n_molecules):
        reference = rng.normal(size=(5, 3))
        found.add(scale * reference + noise * rng.normal(size=(5, 3)), reference, 0.01 * i)
    return found


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1.0), (0.003, 1.0), (-2.0, -1.0)])
def test_forces_up_to_a_factor_correlate_fully_and_reversed_ones_with_minus_one(scale: float, expected: float) -> None:
    for one in (filled(scale).whole(), *filled(scale).bins(4)):
        assert one.pearson == pytest.approx(expected, abs=1e-12)
        assert one.cosine == pytest.approx(expected, abs=1e-12)


def test_random_forces_do_not_correlate_and_half_noise_correlates_by_the_square_root_of_a_half() -> None:
    random, half = filled(0.0, 1.0).whole(), filled(1.0, 1.0).whole()
    assert abs(random.pearson) < 4 / math.sqrt(3000) and abs(random.cosine) < 4 / math.sqrt(3 * 1000)
    assert half.pearson == pytest.approx(math.sqrt(0.5), abs=0.04)


def test_the_correlation_is_that_of_numpy() -> None:
    rng = np.random.default_rng(1)
    implied, reference = rng.normal(size=(2, 40, 3)) + 0.3
    found = ForceCorrelation()
    for atoms in (slice(0, 10), slice(10, 11), slice(11, 40)):
        found.add(implied[atoms], reference[atoms], 0.0)
    one = found.whole()
    assert one.pearson == pytest.approx(np.corrcoef(implied.ravel(), reference.ravel())[0, 1])
    dots = (implied * reference).sum(1) / np.linalg.norm(implied, axis=1) / np.linalg.norm(reference, axis=1)
    assert one.cosine == pytest.approx(dots.mean())
    assert (one.n_molecules, one.n_atoms) == (3, 40)


def test_bins_hold_every_molecule_once_in_the_order_of_the_displacement() -> None:
    bins = filled(1.0).bins(7)
    assert sum(b.n_molecules for b in bins) == 200
    assert {b.n_molecules for b in bins} <= {28, 29}
    assert all(below.upper < above.lower for below, above in zip(bins, bins[1:], strict=False))
    assert (bins[0].lower, bins[-1].upper) == (0.0, 1.99)


def test_molecules_at_one_displacement_are_one_bin_and_no_molecules_none() -> None:
    found = ForceCorrelation()
    assert found.bins(3) == [] and found.whole().n_molecules == 0 and math.isnan(found.whole().pearson)
    for _ in range(5):
        found.add(np.eye(3), np.eye(3), 0.2)
    assert [b.n_molecules for b in found.bins(3)] == [5]
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        found.bins(0)


def test_what_has_no_direction_or_never_changes_has_no_correlation() -> None:
    found = ForceCorrelation()
    found.add(np.ones((2, 3)), np.zeros((2, 3)), 0.0)
    assert math.isnan(found.whole().pearson) and math.isnan(found.whole().cosine)
    found.add(np.zeros((2, 3)), np.eye(3)[:2], 0.0)
    assert found.whole().cosine == 0


def test_numbers_that_are_not_finite_are_refused() -> None:
    found = ForceCorrelation()
    for implied, place in ((np.full((1, 3), np.nan), 0.0), (np.zeros((1, 3)), math.inf)):
        with pytest.raises(ValueError, match="a force or displacement is not finite"):
            found.add(implied, np.ones((1, 3)), place)


def test_a_figure_shows_a_line_for_each_source() -> None:
    bins, whole = filled(1.0, 0.5).bins(5), filled(1.0, 0.5).whole()
    curves = {"energy": bins, "noise": bins[:4]}
    found = CorrelationCurves(axis="rmsd (Å)", n_left_out=0, curves=curves, whole=dict.fromkeys(curves, whole))
    figure = force_correlation_figure(found)
    figure.draw_without_rendering()
    assert [axis.get_xlabel() for axis in figure.axes] == ["rmsd (Å)"] * 2
    assert all(len(axis.get_lines()) == 3 for axis in figure.axes)


@pytest.mark.parametrize("name", ["CH3CH2OH", "H2O", "C6H6", "CH4"])
def test_the_superposed_distance_is_that_of_scipy_and_does_not_know_how_molecules_lie(name: str) -> None:
    rng, clean = np.random.default_rng(0), g2(name).positions
    noisy = clean + 0.2 * rng.normal(size=(4, *clean.shape))
    turned = noisy @ Rotation.random(rng=rng).as_matrix() + rng.normal(size=3)
    centred = clean - clean.mean(0)
    expected = [Rotation.align_vectors(centred, other - other.mean(0))[1] / math.sqrt(len(clean)) for other in noisy]
    assert superposed_rmsd(clean, noisy) == pytest.approx(np.array(expected), rel=1e-6)
    assert superposed_rmsd(clean, turned) == pytest.approx(np.array(expected), rel=1e-6)
    assert superposed_rmsd(clean, clean[None] + 1.0) == pytest.approx([0.0], abs=1e-6)


def test_a_mirror_image_is_another_conformation() -> None:
    clean = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1.5, 0], [0, 0, 2.0]])
    assert superposed_rmsd(clean, clean[None] * [1, 1, -1])[0] > 0.5


def test_the_distance_of_two_conformations_of_a_diatomic_is_half_the_difference_of_their_lengths() -> None:
    bond, stretched = np.array([[0.0, 0, 0], [0, 0, 1.1]]), np.array([[0.0, 0, 0], [1.4, 0, 0]])
    assert superposed_rmsd(bond, stretched[None]) == pytest.approx([0.15])
