"""What a comparison of learning curves says, on curves whose answer is known."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from basinet.evaluation.compare_page import curves_figure, readings, table_of, write_comparison_page
from basinet.evaluation.learning_curves import LearningCurves, change, equivalent_labels, interval, verdict


def curves(errors, sizes=(50, 100, 200), starts=("scratch", "ours")):
    values = np.array(errors, dtype=np.float64)
    return LearningCurves(
        starts=starts,
        sizes=sizes,
        errors=values[:, :, None] if values.ndim == 2 else values,
        quantity="force MAE",
        unit="meV/Å",
    )


def power_law(sizes, prefactor=1000.0, exponent=-0.5):
    return [prefactor * n**exponent for n in sizes]


def test_half_the_error_of_an_inverse_square_root_law_is_worth_four_times_the_labels():
    sizes = (50, 100, 200, 400)
    law = power_law(sizes)
    found = curves([law, [e / 2 for e in law]], sizes)
    assert equivalent_labels(found, 1, 0).labels == pytest.approx(200)
    assert equivalent_labels(found, 1, 1).labels == pytest.approx(400)
    assert equivalent_labels(found, 1, 0).beyond(50) == "150 more"
    assert (equivalent_labels(found, 1, 2).labels, equivalent_labels(found, 1, 2).bound) == (400, "more")
    assert equivalent_labels(found, 1, 2).beyond(200) == "more than 200 more"
    assert equivalent_labels(found, 1, 3).beyond(400) == "more, beyond the measured sizes"


def test_between_sizes_the_law_is_met_exactly():
    sizes = (50, 200)
    law = power_law(sizes)
    found = curves([law, power_law((120, 180))], sizes)
    assert equivalent_labels(found, 1, 0).labels == pytest.approx(120)
    assert equivalent_labels(found, 1, 1).beyond(200) == "20 fewer"


def test_an_error_above_the_whole_curve_has_no_number():
    found = curves([[4.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    assert equivalent_labels(found, 1, 0).beyond(50) == "fewer than measured"


def test_a_curve_that_rises_again_counts_the_fewest_labels_that_reach_an_error():
    found = curves([[4.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    assert equivalent_labels(found, 1, 0).labels == pytest.approx(100)


def test_the_interval_is_that_of_students_t():
    values = np.array([1.0, 2.0, 4.0, 3.0])
    expected = ttest_1samp(values, 0.0).confidence_interval(0.95)
    found = interval(values)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_pairs_take_out_what_the_draw_of_labels_does_to_both():
    """Errors vary fourfold from seed to seed, and ours are always a tenth lower."""
    scratch = np.array([[40.0, 80.0, 160.0]])
    found = curves(np.stack([scratch, 0.9 * scratch]), sizes=(50,))
    assert change(found, 1, 0).value == pytest.approx(-0.1)
    assert change(found, 1, 0).low == pytest.approx(-0.1)
    assert verdict(change(found, 1, 0)) == "helps"


@pytest.mark.parametrize(
    ("factors", "said"),
    [((0.8, 0.82, 0.79), "helps"), ((1.3, 1.31, 1.28), "harms"), ((0.9, 1.1, 1.0), "not shown"), ((0.5,), "one seed")],
)
def test_what_is_said_follows_from_the_interval(factors, said):
    found = curves(np.stack([np.full((1, len(factors)), 50.0), 50.0 * np.array([factors])]), sizes=(50,))
    assert verdict(change(found, 1, 0)) == said
    assert len(readings(found)) == 1


def test_under_no_difference_helps_or_harms_is_said_in_one_case_of_twenty():
    generator = np.random.default_rng(0)
    trials = 2000
    said = [
        verdict(change(curves(np.exp(0.2 * generator.normal(size=(2, 1, 4))), sizes=(50,)), 1, 0))
        for _ in range(trials)
    ]
    wrong = sum(s in ("helps", "harms") for s in said)
    assert abs(wrong - 0.05 * trials) < 4 * math.sqrt(trials * 0.05 * 0.95)


@pytest.mark.parametrize("bad", [[[1.0, -1.0, 1.0], [1.0, 1.0, 1.0]], [[1.0, math.nan, 1.0], [1.0, 1.0, 1.0]]])
def test_errors_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="positive and finite"):
        curves(bad)


def test_the_page_shows_every_start_and_size(tmp_path):
    found = curves(np.random.default_rng(0).uniform(10, 90, (3, 3, 2)), starts=("scratch", "a", "b"))
    assert [row[:2] for row in table_of(found).rows][:4] == [
        ["50", "scratch"],
        ["50", "a"],
        ["50", "b"],
        ["100", "scratch"],
    ]
    page = write_comparison_page(found, tmp_path, "lead")
    assert "meV/Å" in page.read_text()
    assert (tmp_path / "learning_curves.png").stat().st_size > 5000
    labels = [line.get_label() for line in curves_figure(found).axes[0].get_lines()]
    assert {"scratch", "a", "b"} <= set(labels)


def test_one_size_and_one_seed_make_a_page_too(tmp_path):
    write_comparison_page(curves([[50.0], [40.0]], sizes=(100,)), tmp_path, "lead")
