"""Figures of data, training, errors and dynamics.

Every function returns a matplotlib ``Figure`` made without pyplot: no window, no global state, nothing to close. The
two starts keep their colour, marker and line style in all figures; the colours are those of Okabe and Ito, which people
with any colour vision can tell apart.
"""

import math
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from basinet.evaluation.force_correlation import CorrelationCurves
from basinet.evaluation.metrics import Parity, over_seeds, to_unit
from basinet.evaluation.results import STARTS, DataSummary, MDSeries, ModelParity, ResultRow, Start, TrainingCurve

COLOUR: dict[Start | None, str] = {"scratch": "#D55E00", "pre-trained": "#0072B2", None: "#009E73"}
"""Vermilion, blue; bluish green for pre-training itself."""
MARKER: dict[Start | None, str] = {"scratch": "o", "pre-trained": "s", None: "D"}
LINE: dict[Start | None, str] = {"scratch": "--", "pre-trained": "-", None: "-"}
SOURCE = {"energy": ("#0072B2", "o"), "noise": ("#E69F00", "s")}
"""Where an implied force comes from."""
NEUTRAL = "#56789A"
INK = "#333333"

WIDTH = 7.2
"""Inches, of every figure."""


def data_figure(data: DataSummary) -> Figure:
    """Return histograms of size, elements, force magnitudes and energies; panels without data are left out."""
    with_labels = (data.force_norms is not None) + (data.energies is not None)
    n_rows = 1 + math.ceil(with_labels / 2)
    figure = new_figure(2.7 * n_rows)
    axes = iter(figure.subplots(n_rows, 2, squeeze=False).ravel())
    _sizes(next(axes), data)
    _elements(next(axes), data)
    if data.force_norms is not None:
        axis = next(axes)
        _histogram(axis, data.force_norms)
        axis.set_yscale("log")
        finish_axis(axis, "force on an atom (eV/Å)", "atoms", "Forces")
    if data.energies is not None:
        axis = next(axes)
        _histogram(axis, data.energies * 1000)
        finish_axis(axis, "energy above the lowest\nof the compound (meV/atom)", "structures", "Energies")
    for axis in axes:
        axis.set_axis_off()
    return figure


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


def force_correlation_figure(found: CorrelationCurves) -> Figure:
    """Return Pearson correlation and cosine of implied and reference forces against displacement, one line a source."""
    figure = new_figure(3.2)
    axes = figure.subplots(1, 2, sharey=True)
    for source, bins in sorted(found.curves.items()):
        places = [(b.lower + b.upper) / 2 for b in bins]
        colour, marker = SOURCE[source]
        style = {"color": colour, "marker": marker, "label": f"from {source}"}
        axes[0].plot(places, [b.pearson for b in bins], **style)
        axes[1].plot(places, [b.cosine for b in bins], **style)
    for axis in axes:
        axis.axhline(0.0, color=INK, lw=0.8)
        axis.set_ylim(-1.05, 1.05)
    finish_axis(axes[0], found.axis, "Pearson correlation", "Force components")
    finish_axis(axes[1], found.axis, "mean cosine", "Directions")
    legend(axes[1])
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


def new_figure(height: float) -> Figure:
    """Return an empty figure as wide as all of them; ``height`` in inches."""
    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))


def _sizes(axis: Axes, data: DataSummary) -> None:
    sizes = data.atoms_per_molecule
    width = max(1, math.ceil((sizes.max() - sizes.min() + 1) / 40))
    edges = np.arange(sizes.min(), sizes.max() + width + 1, width) - 0.5
    axis.hist(sizes, bins=list(edges), color=NEUTRAL, edgecolor="white", lw=0.4)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(edges) < 12:
        axis.set_xlim(edges[0] - 2, edges[-1] + 2)
    finish_axis(axis, "atoms", "structures", "Size")


def _elements(axis: Axes, data: DataSummary) -> None:
    numbers, counts = np.unique(data.atomic_numbers, return_counts=True)
    bars = axis.bar([chemical_symbols[z] for z in numbers], 100 * counts / counts.sum(), color=NEUTRAL)
    axis.bar_label(bars, fmt="{:.3g}", fontsize=8, color=INK, padding=1)
    axis.margins(y=0.14)
    finish_axis(axis, "element", "share of atoms (%)", "Elements")


def _histogram(axis: Axes, values: Float64[np.ndarray, " n"]) -> None:
    """Draw 50 bins up to the 99.9th percentile, which a few outliers cannot stretch, and say how many lie beyond."""
    top = float(np.quantile(values, 0.999)) or 1.0
    axis.hist(values, bins=50, range=(0.0, top), color=NEUTRAL)
    beyond = int((values > top).sum())
    if beyond:
        note = f"{beyond} beyond, up to {values.max():.3g}"
        axis.set_title(note, loc="right", fontsize=8, color=INK)


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
    """Go over to a logarithm above ``linear_below`` (meV) if an energy went more than ten times beyond."""
    low, high = _extent(axis)
    if max(-low, high) > 10 * linear_below:
        axis.set_yscale("symlog", linthresh=linear_below)
        axis.set_ylim(min(-linear_below / 2, 2 * low), max(linear_below / 2, 2 * high))


def _fit_temperatures(axis: Axes, linear_below: float = 5000.0) -> None:
    """Go over to a logarithm if a temperature went beyond ``linear_below`` (K)."""
    low, high = _extent(axis)
    if high > linear_below:
        axis.set_yscale("log")
        axis.set_ylim(max(low, 1.0) / 2, 2 * high)
    else:
        axis.set_ylim(bottom=0.0)


def logarithmic(axis: Axes, which: str, ticks: Sequence[int] | None = None) -> None:
    """Make an axis logarithmic, with plain numbers at ``ticks`` or, within two decades, at several per decade."""
    axis.set(**{f"{which}scale": "log"})
    line, (low, high) = (axis.xaxis, axis.get_xlim()) if which == "x" else (axis.yaxis, axis.get_ylim())
    finer = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    per_decade = finer if high < 4 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 100 * low else (1.0,)
    line.set_major_locator(FixedLocator(list(ticks)) if ticks is not None else LogLocator(subs=per_decade))
    line.set_minor_locator(NullLocator())
    line.set_minor_formatter(NullFormatter())
    line.set_major_formatter(_plain)


_plain = FuncFormatter(lambda value, _: f"{value:g}")


def legend(axis: Axes) -> None:
    """Show each label once."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), frameon=False, fontsize=9)


def finish_axis(axis: Axes, x: str, y: str, title: str) -> None:
    """Label an axis, in the style of every figure."""
    axis.set_xlabel(x, color=INK, fontsize=10)
    axis.set_ylabel(y, color=INK, fontsize=10)
    axis.set_title(title, color=INK, fontsize=11, loc="left", fontweight="bold")
    axis.tick_params(colors=INK, labelsize=9, which="both")
    axis.grid(color="#E4E4E4", lw=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
