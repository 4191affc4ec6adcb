"""Write the page of a comparison of starts: learning curves, a table, and conclusions."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from basinet.evaluation.learning_curves import (
    CONFIDENCE,
    Interval,
    LearningCurves,
    change,
    equivalent_labels,
    interval,
    verdict,
)
from basinet.evaluation.plots import INK, finish_axis, legend, logarithmic, new_figure
from basinet.evaluation.report import Picture, Report, Section, Table

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def table_of(curves: LearningCurves) -> Table:
    """Return one row for each start and size: error, change to the first start, what it is worth in labels."""
    header = ["labels", "start", f"{curves.quantity} ({curves.unit})", "change", "verdict", "worth in labels"]
    rows: list[list[str]] = []
    for s, size in enumerate(curves.sizes):
        for k, start in enumerate(curves.starts):
            error = _spread(curves, k, s)
            if k == 0:
                rows.append([str(size), start, error, "", "", ""])
                continue
            found = change(curves, k, s)
            worth = equivalent_labels(curves, k, s).beyond(size)
            rows.append([str(size), start, error, percent(found), verdict(found), worth])
    seeds = "one seed" if curves.n_seeds == 1 else f"mean ± standard deviation over {curves.n_seeds} seeds"
    caption = (
        f"Errors on the same test set: {seeds}. Change: of the error, against {curves.starts[0]} with the same labels, "
        f"with its {CONFIDENCE:.0%} interval (paired, geometric mean). Worth: additional labels that "
        f"{curves.starts[0]} needs for that error, interpolated on its learning curve."
    )
    return Table(header=header, rows=rows, caption=caption)


def readings(curves: LearningCurves) -> list[str]:
    """Return a sentence about each other start: helps, harms, or not shown."""
    texts = {
        "helps": "{name} helps with {sizes} labels",
        "harms": "{name} harms with {sizes} labels",
        "not shown": "{name} shows no significant change with {sizes} labels; run more seeds",
        "one seed": "{name} was run with one seed, so no interval is known; run more seeds",
    }
    lines: list[str] = []
    for k, name in enumerate(curves.starts[1:], start=1):
        found = [verdict(change(curves, k, s)) for s in range(len(curves.sizes))]
        for kind, text in texts.items():
            sizes = [str(n) for n, v in zip(curves.sizes, found, strict=True) if v == kind]
            if sizes:
                lines.append(text.format(name=name, sizes=", ".join(sizes)) + ".")
    return lines


def write_comparison_page(curves: LearningCurves, directory: Path, lead: str) -> Path:
    """Write ``report.html`` and ``learning_curves.png`` and return the path of the HTML file."""
    report = Report(title=f"{', '.join(curves.starts[1:])} against {curves.starts[0]}", lead=lead)
    description = f"{curves.quantity} against the number of labels for {', '.join(curves.starts)}"
    picture = Picture(name="learning_curves", figure=curves_figure(curves), description=description)
    reading = " ".join(readings(curves))
    report.add(Section(title="Test errors", reading=reading, pictures=[picture], tables=[table_of(curves)]))
    return report.write(directory)


def curves_figure(curves: LearningCurves) -> Figure:
    """Return the error of each start against the number of labels, with the interval of the mean over seeds."""
    figure = new_figure(3.8)
    axis = figure.subplots()
    for k in range(len(curves.starts)):
        _line(axis, curves, k)
    if len(curves.sizes) > 1:
        logarithmic(axis, "x", curves.sizes)
    else:
        axis.set_xticks(list(curves.sizes))
    logarithmic(axis, "y")
    legend(axis)
    shade = "" if curves.n_seeds == 1 else f", bars: {CONFIDENCE:.0%} interval of the mean of {curves.n_seeds} seeds"
    finish_axis(axis, "labels to train on", f"{curves.quantity} ({curves.unit})", f"Test error{shade}")
    return figure


def _line(axis: Axes, curves: LearningCurves, start: int) -> None:
    colour, marker = COLOURS[start % len(COLOURS)], MARKERS[start % len(MARKERS)]
    # Shifted sideways, so that error bars do not overlap.
    x = [size * 1.03 ** (start - (len(curves.starts) - 1) / 2) for size in curves.sizes]
    means = curves.means[start]
    if curves.n_seeds > 1:
        spans = [interval(curves.errors[start, s]) for s in range(len(curves.sizes))]
        # The interval of few seeds may reach below zero, which a logarithmic axis cannot show.
        below = [m - max(span.low, 0.2 * m) for m, span in zip(means, spans, strict=True)]
        above = [span.high - m for m, span in zip(means, spans, strict=True)]
        axis.errorbar(x, means, yerr=[below, above], fmt="none", ecolor=colour, capsize=3, alpha=0.6)
        for seed in range(curves.n_seeds):
            axis.plot(x, curves.errors[start, :, seed], ".", color=INK, alpha=0.35, ms=4)
    axis.plot(x, means, color=colour, marker=marker, ls="--" if start == 0 else "-", label=curves.starts[start])


def percent(found: Interval) -> str:
    """Return a relative change with its interval, in percent."""
    if found.high == float("inf"):
        return f"{found.value:+.0%}"
    return f"{found.value:+.0%} ({found.low:+.0%} to {found.high:+.0%})"


def _spread(curves: LearningCurves, start: int, size: int) -> str:
    values = curves.errors[start, size]
    mean = f"{values.mean():.4g}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.2g}"
