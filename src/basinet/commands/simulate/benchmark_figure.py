"""The figure of the MD17 benchmark: distances against the reference, and how long each run stayed whole."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from basinet.evaluation.plots import INK, finish_axis, legend, new_figure

RUNS, WHOLE, BROKEN = "#0072B2", "#009E73", "#D55E00"
"""Of Okabe and Ito."""
REFERENCE = "#cccccc"


class BenchmarkSeries(NamedTuple):
    """What the figure shows."""

    reference: Float64[np.ndarray, " n_bins"]
    """h(r) of the data, 1/Å."""
    runs: Float64[np.ndarray, "n_runs n_bins"]
    """That of each run, up to the first broken bond."""
    largest_distance: float
    """Å, where the last bin ends."""
    stable: Sequence[float]
    """ps, of each run."""
    picoseconds: float
    """That were asked for."""


def benchmark_figure(series: BenchmarkSeries) -> Figure:
    """Return h(r) of the runs over that of the reference, and a bar for the stable time of each run."""
    figure = new_figure(3.4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    width = series.largest_distance / len(series.reference)
    places = (np.arange(len(series.reference)) + 0.5) * width
    left.fill_between(places, series.reference, color=REFERENCE, lw=0, label="reference")
    for i, h in enumerate(series.runs):
        if h.any():
            left.plot(places, h, color=RUNS, lw=0.8, alpha=0.7, label="runs" if i == 0 else None)
    filled = np.flatnonzero(series.reference + series.runs.sum(axis=0))
    left.set_xlim(max(0.0, places[filled[0]] - 0.3), places[filled[-1]] + 0.3)
    left.set_ylim(bottom=0)
    legend(left)
    finish_axis(left, "distance (Å)", "h(r) (1/Å)", "Distances between atoms")
    names = [str(i) for i in range(len(series.stable))]
    colours = [WHOLE if t >= series.picoseconds else BROKEN for t in series.stable]
    right.barh(names, series.stable, color=colours, height=0.6)
    right.axvline(series.picoseconds, color=INK, lw=0.9, ls=":")
    right.set_xlim(0, 1.05 * series.picoseconds)
    right.invert_yaxis()
    finish_axis(right, "time whole (ps)", "run", f"Stability, of {series.picoseconds:g} ps")
    return figure
