"""Draw training, errors and dynamics of the two starts, which keep colour, marker and line style in all figures."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from basinet.evaluation.metrics import Parity, over_seeds, to_unit
from basinet.evaluation.plots import INK, finish_axis, legend, logarithmic, new_figure
from basinet.quickstart.results import STARTS, MDSeries, ModelParity, ResultRow, Start, TrainingCurve

COLOUR: dict[Start | None, str] = {"scratch": "#D55E00", "pre-trained": "#0072B2", None: "#009E73"}
"""Vermilion and blue; bluish green for the pre-training run."""
MARKER: dict[Start | None, str] = {"scratch": "o", "pre-trained": "s", None: "D"}
LINE: dict[Start | None, str] = {"scratch": "--", "pre-trained": "-", None: "-"}


def training_figure(curves: Sequence[TrainingCurve]) -> Figure:
    """Return the training loss and the validation force MAE against the step; one line per run."""
    validated = any(len(curve.force_maes) for curve in curves)
    figure = new_figure(3.0)
    axes = figure.subplots(1, 1 + validated, squeeze=False)[0]
    for curve in curves:
        style = {"color": COLOUR[curve.start], "ls": LINE[curve.start], "lw": 1.3, "label": curve.name}
        axes[0].plot(curve.steps, curve.losses, **style)
        if len(curve.force_maes):
            marker = MARKER[curve.start] if len(curve.force_maes) <= 25 else None
            mae = [to_unit(x, "meV") for x in curve.force_maes]
            axes[1].plot(curve.validation_steps, mae, marker=marker, ms=4, **style)
    for axis in axes:
        logarithmic(axis, "y")
    finish_axis(axes[0], "step", "loss", "Training loss")
    if validated:
        finish_axis(axes[1], "step", "force MAE (meV/Å)", "Validation force error")
    legend(axes[-1])
    return figure


def learning_figure(rows: Sequence[ResultRow]) -> Figure:
    """Return force MAE from scratch and pre-trained: lines over label counts, or bars for a single count.

    Every seed is a point; lines and bars are means, error bars one standard deviation over seeds.
    """
    figure = new_figure(3.4)
    axis = figure.subplots()
    counts = sorted({row.labels for row in rows})
    if len(counts) > 1:
        _learning_lines(axis, rows)
        logarithmic(axis, "x", counts)
        logarithmic(axis, "y")
        legend(axis)
    else:
        _learning_bars(axis, rows)
    n_seeds = len({row.seed for row in rows})
    title = "Test force error" + (f": mean and standard deviation of {n_seeds} seeds" if n_seeds > 1 else ": one seed")
    finish_axis(axis, "labelled structures for fine-tuning", "force MAE (meV/Å)", title)
    return figure


def parity_figure(parities: Sequence[ModelParity]) -> Figure:
    """Return predicted against reference energies and force components, one column per model."""
    figure = new_figure(7.2 if len(parities) > 1 else 3.6)
    axes = figure.subplots(len(parities), 2, squeeze=False)
    force_range = _common_range([p.forces for p in parities], 0.0)
    offset = float(np.mean(parities[0].energies.reference)) if len(parities[0].energies.reference) else 0.0
    energy_range = _common_range([p.energies for p in parities], offset)
    for (left, right), parity in zip(axes, parities, strict=True):
        _parity(left, parity.forces, 0.0, force_range, COLOUR[parity.start], "meV/Å")
        finish_axis(left, "reference (eV/Å)", "predicted (eV/Å)", f"Force components, {parity.start}")
        _parity(right, parity.energies, offset, energy_range, COLOUR[parity.start], "meV")
        finish_axis(right, "reference − mean (eV)", "predicted − mean (eV)", f"Energies, {parity.start}")
    return figure


def dynamics_figure(series: Sequence[MDSeries]) -> Figure:
    """Return total energy, temperature and largest bond deviation against time; a cross marks a replica that broke.

    A line is thin after its replica broke. The background is shaded from the first replica of a model that broke.
    """
    figure = new_figure(7.5)
    energy, temperature, bonds = figure.subplots(3, 1, sharex=True)
    limit = max(run.bond_tolerance for run in series)
    for run in series:
        change = (run.total_energy - run.total_energy[0]) / run.n_atoms * 1000
        _replicas(energy, run, change)
        _replicas(temperature, run, run.temperature)
        _replicas(bonds, run, np.minimum(run.bond_deviation, 2 * limit))
        _shade_unstable([energy, temperature, bonds], run)
    bonds.axhline(limit, color=INK, lw=0.9, ls=":")
    _fit_energies(energy)
    _fit_temperatures(temperature)
    bonds.set_ylim(0, 2 * limit)
    finish_axis(energy, "", "change per atom (meV)", "Total energy")
    finish_axis(temperature, "", "temperature (K)", "Temperature")
    finish_axis(bonds, "time (ps)", "deviation (Å)", f"Most deviating bond (broken above {limit} Å)")
    bonds.set_xlim(0, max(run.duration for run in series) / 1000)
    legend(energy)
    return figure


def _by_count(rows: Sequence[ResultRow], start: Start) -> dict[int, list[float]]:
    """Return the force MAEs of all seeds in meV/Å by label count."""
    counts = sorted({row.labels for row in rows if row.start == start})
    return {
        n: [to_unit(row.force_mae, "meV") for row in rows if row.labels == n and row.start == start] for n in counts
    }


def _learning_lines(axis: Axes, rows: Sequence[ResultRow]) -> None:
    for start in STARTS:
        by_count = _by_count(rows, start)
        spreads = [over_seeds(values) for values in by_count.values()]
        axis.errorbar(
            list(by_count),
            [spread.mean for spread in spreads],
            yerr=[spread.std or 0.0 for spread in spreads],
            color=COLOUR[start],
            ls=LINE[start],
            marker=MARKER[start],
            capsize=3,
            label=start,
        )
        for count, values in by_count.items():
            if len(values) > 1:
                axis.plot([count] * len(values), values, ".", color=COLOUR[start], alpha=0.5, ms=5)


def _learning_bars(axis: Axes, rows: Sequence[ResultRow]) -> None:
    for place, start in enumerate(STARTS):
        for count, values in _by_count(rows, start).items():
            spread = over_seeds(values)
            axis.bar(place, spread.mean, width=0.55, color=COLOUR[start], alpha=0.85)
            if spread.std is not None:
                axis.errorbar(place, spread.mean, yerr=spread.std, color=INK, capsize=5)
                axis.plot(np.linspace(place - 0.1, place + 0.1, len(values)), values, ".", color=INK, ms=6)
            text = f"{spread.mean:.3g}" + (f" ± {spread.std:.2g}" if spread.std is not None else "")
            axis.annotate(text, (place, 0), (0, 6), textcoords="offset points", ha="center", color="white", fontsize=10)
            axis.set_xticks(range(len(STARTS)), [f"{name}, {count} labels" for name in STARTS])
    axis.set_xlim(-0.7, 1.7)


def _common_range(parities: Sequence[Parity], offset: float) -> tuple[float, float]:
    values = np.concatenate([x for p in parities for x in (p.reference, p.predicted)]) - offset
    if len(values) == 0:
        return -1.0, 1.0
    margin = 0.05 * float(np.ptp(values)) or 1.0
    return float(values.min()) - margin, float(values.max()) + margin


def _parity(axis: Axes, parity: Parity, offset: float, limits: tuple[float, float], colour: str, unit: str) -> None:
    axis.plot(limits, limits, color=INK, lw=0.8, zorder=1)
    reference, predicted = parity.reference - offset, parity.predicted - offset
    axis.scatter(reference, predicted, s=6, alpha=0.3, color=colour, lw=0, zorder=2)
    axis.set(xlim=limits, ylim=limits, aspect="equal")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    mae = float(np.abs(predicted - reference).mean()) * 1000 if len(reference) else math.nan
    note = f"MAE {mae:.3g} {unit}\nof {len(reference)} points"
    axis.text(0.04, 0.96, note, transform=axis.transAxes, va="top", fontsize=9, color=INK)


def _replicas(axis: Axes, run: MDSeries, values: Float64[np.ndarray, "n_records n_replicas"]) -> None:
    colour, style = COLOUR[run.start], LINE[run.start]
    times = run.times / 1000
    for replica in range(run.n_replicas):
        end = run.stability_time[replica]
        whole, after = run.times <= end, run.times >= end
        label = run.start if replica == 0 else None
        axis.plot(times[whole], values[whole, replica], color=colour, ls=style, lw=1.1, alpha=0.75, label=label)
        axis.plot(times[after], values[after, replica], color=colour, lw=0.5, alpha=0.6)
        last = values[whole, replica]
        last = last[np.isfinite(last)]
        if end < run.duration and len(last):
            axis.plot(end / 1000, last[-1], "X", color=colour, ms=9, mec="white", zorder=5, clip_on=False)


def _shade_unstable(axes: Sequence[Axes], run: MDSeries) -> None:
    if run.n_stable < run.n_replicas:
        for axis in axes:
            axis.axvspan(
                run.stability_time.min() / 1000, run.duration / 1000, color=COLOUR[run.start], alpha=0.08, lw=0
            )


def _extent(axis: Axes) -> tuple[float, float]:
    """Return the lowest and the highest finite value of all lines."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axis.get_lines()])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)


def _fit_energies(axis: Axes, linear_below: float = 10.0) -> None:
    """Use a logarithmic scale above ``linear_below`` (meV) if an energy exceeds ten times that."""
    low, high = _extent(axis)
    if max(-low, high) > 10 * linear_below:
        axis.set_yscale("symlog", linthresh=linear_below)
        axis.set_ylim(min(-linear_below / 2, 2 * low), max(linear_below / 2, 2 * high))


def _fit_temperatures(axis: Axes, linear_below: float = 5000.0) -> None:
    """Use a logarithmic scale if a temperature exceeds ``linear_below`` (K)."""
    low, high = _extent(axis)
    if high > linear_below:
        axis.set_yscale("log")
        axis.set_ylim(max(low, 1.0) / 2, 2 * high)
    else:
        axis.set_ylim(bottom=0.0)
