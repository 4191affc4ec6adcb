from collections.abc import Sequence
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from demo import demo_results
from matplotlib.figure import Figure

from basinet.evaluation.metrics import Parity
from basinet.quickstart.figures import dynamics_figure, learning_figure, parity_figure, training_figure
from basinet.quickstart.results import ModelParity, TrainingCurve

RESULTS = demo_results()


def drawn(figure: Figure) -> Figure:
    """Draw a figure, which is when matplotlib finds what is wrong with it."""
    figure.draw_without_rendering()
    return figure


def labels(figure: Figure) -> list[str]:
    return [text for axis in figure.axes if axis.axison for text in (axis.get_xlabel(), axis.get_ylabel())]


def figures(results: type(RESULTS) = RESULTS) -> Sequence[Figure]:
    return [
        training_figure(results.curves),
        learning_figure(results.rows),
        parity_figure(results.parities),
        dynamics_figure(results.dynamics),
    ]


@pytest.mark.parametrize(("seeds", "counts"), [((0,), (50,)), ((0, 1, 2), (50, 200))])
def test_every_axis_of_every_figure_can_be_drawn_and_names_its_unit(
    seeds: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    before = dict(matplotlib.rcParams)
    for figure in figures(demo_results(seeds, counts)):
        for text in labels(drawn(figure)):
            plain = text in (
                "",
                "step",
                "loss",
                "labelled structures for fine-tuning",
            )
            assert plain or text.endswith(")"), f"no unit in {text!r}"
    assert dict(matplotlib.rcParams) == before, "no global state"


def test_forces_are_drawn_in_mev_and_times_in_ps() -> None:
    rows = [row for row in RESULTS.rows if row.seed == 0]
    lines = [line for line in learning_figure(rows).axes[0].get_lines() if len(line.get_xdata()) == 3]
    scratch = [1000 * row.force_mae for row in rows if row.start == "scratch"]
    assert np.allclose(lines[0].get_ydata(), scratch)
    assert dynamics_figure(RESULTS.dynamics).axes[2].get_xlim() == (0, 5)


def test_an_explosion_does_not_hide_the_model_that_stays_whole() -> None:
    energy, temperature, bonds = drawn(dynamics_figure(RESULTS.dynamics)).axes
    assert (energy.get_yscale(), temperature.get_yscale()) == ("symlog", "log")
    calm = drawn(dynamics_figure([RESULTS.dynamics[1]])).axes
    assert (calm[0].get_yscale(), calm[1].get_yscale()) == ("linear", "linear")
    crosses = [line for line in bonds.get_lines() if line.get_marker() == "X"]
    assert [float(line.get_xdata()[0]) for line in crosses] == [1.625, 3.25]


def test_a_replica_that_fails_at_once_can_be_drawn() -> None:
    series = RESULTS.dynamics[1]
    nothing = np.full((1, 4), np.nan)
    failed = replace(
        series,
        times=np.zeros(1),
        total_energy=nothing,
        temperature=nothing,
        bond_deviation=nothing,
        stability_time=np.zeros(4),
        energy_drift=np.full(4, np.nan),
    )
    drawn(dynamics_figure([failed]))
    drawn(dynamics_figure([failed, series]))


def test_a_model_without_energies_can_be_drawn() -> None:
    none = Parity(reference=np.empty(0), predicted=np.empty(0))
    drawn(parity_figure([ModelParity(start="scratch", energies=none, forces=RESULTS.parities[0].forces)]))


def test_a_history_is_read_from_records_that_have_a_loss_or_a_validation_error() -> None:
    records = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "mae": 0.2}, {"step": 2, "time": 5.0}]
    curve = TrainingCurve.from_records("run", "scratch", records, loss_key="loss", force_mae_key="mae")
    assert curve.steps.tolist() == [1.0, 2.0]
    assert curve.losses.tolist() == [3.0, 2.0]
    assert (curve.validation_steps.tolist(), curve.force_maes.tolist()) == ([2.0], [0.2])
    with pytest.raises(ValueError, match=r"no record has 'los'; the 3 records have \['loss', 'mae', 'step', 'time'\]"):
        TrainingCurve.from_records("run", None, records, loss_key="los", force_mae_key="mae")
