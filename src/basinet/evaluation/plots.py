"""Draw figures in one style.

Figures are made without pyplot: no window, no global state, nothing to close. Colours are those of Okabe and Ito, which
people with any colour vision can tell apart.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from basinet.evaluation.force_correlation import CorrelationCurves

NEUTRAL = "#56789A"
INK = "#333333"
WIDTH = 7.2
"""Width of every figure, inches."""
SOURCE = {"energy": ("#0072B2", "o"), "noise": ("#E69F00", "s")}
"""Colour and marker by the source of an implied force."""


def new_figure(height: float) -> Figure:
    """Return an empty figure of the common width; ``height`` in inches."""
    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))


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
    """Label an axis in the common style."""
    axis.set_xlabel(x, color=INK, fontsize=10)
    axis.set_ylabel(y, color=INK, fontsize=10)
    axis.set_title(title, color=INK, fontsize=11, loc="left", fontweight="bold")
    axis.tick_params(colors=INK, labelsize=9, which="both")
    axis.grid(color="#E4E4E4", lw=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
