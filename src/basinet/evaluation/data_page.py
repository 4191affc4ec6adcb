"""Write the page of a data check: its findings, and figures of the data."""

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from basinet.data.doctor.check import FramePairs
from basinet.data.doctor.doctor import Diagnosis
from basinet.data.doctor.energies import EnergyFit
from basinet.data.doctor.scan import FORCE_EDGES, RATIO_EDGES, Scan
from basinet.evaluation.plots import INK, NEUTRAL, finish_axis, new_figure
from basinet.evaluation.report import Picture, Report, Section, Table

EXPECTED = "#D55E00"
"""Colour of values expected of sound data."""


def write_data_page(diagnosis: Diagnosis, path: Path) -> Path:
    """Write the page to a file that ends in .html, or into a directory, and return the path of the HTML file."""
    report = Report(title=f"Check of {diagnosis.name}", lead=_lead(diagnosis))
    report.add(Section(title="Findings", reading=_reading(diagnosis), tables=[findings_table(diagnosis)]))
    description = "Bond lengths, energy changes against work, forces, energies, sizes and elements of the data"
    picture = Picture(name="data", figure=doctor_figure(diagnosis), description=description)
    reading = (
        "Orange: nearest neighbours at the sum of covalent radii, energy changes at minus the work of the forces, "
        "and forces of 1 to 3 eV/Å, the range of dynamics at 300 to 600 K."
    )
    report.add(Section(title="Figures", reading=reading, pictures=[picture]))
    return report.write_page(path) if path.suffix == ".html" else report.write(path)


def findings_table(diagnosis: Diagnosis, folded: str = "") -> Table:
    """Return the findings as a table."""
    rows = [[f.check, f.verdict, f.evidence, f.fix] for f in diagnosis.findings]
    return Table(header=["check", "verdict", "evidence", "remedy"], rows=rows, folded=folded)


def doctor_figure(diagnosis: Diagnosis) -> Figure:
    """Return six panels: nearest neighbours, energy against work, forces, energies, sizes, elements."""
    figure = new_figure(8.1)
    axes = figure.subplots(3, 2).ravel()
    _lengths(axes[0], diagnosis.scan)
    _work(axes[1], diagnosis.consistency.pairs)
    _forces(axes[2], diagnosis.scan)
    _energies(axes[3], diagnosis.energies)
    _sizes(axes[4], diagnosis.scan.n_atoms)
    _elements(axes[5], diagnosis.store.manifest.elements)
    return figure


def _lead(diagnosis: Diagnosis) -> str:
    counts = {v: sum(f.verdict == v for f in diagnosis.findings) for v in ("fault", "warning", "ok", "not checked")}
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"{len(diagnosis.store):,} molecules. {len(diagnosis.findings)} checks: {verdicts}."


def _reading(diagnosis: Diagnosis) -> str:
    faults = [f.check for f in diagnosis.findings if f.verdict == "fault"]
    if faults:
        return f"Do not train on this data as it is: {', '.join(faults)}."
    unchecked = sum(f.verdict == "not checked" for f in diagnosis.findings)
    return "No check found a fault." + (f" {unchecked} could not be made; the evidence says why." if unchecked else "")


def _lengths(axis: Axes, seen: Scan) -> None:
    axis.stairs(seen.nearest, RATIO_EDGES, color=NEUTRAL, fill=True)
    axis.axvline(1.0, color=EXPECTED, lw=1.2)
    if seen.nearest.any():
        filled = np.flatnonzero(seen.nearest)
        axis.set_xlim(min(0.7, float(RATIO_EDGES[filled[0]])), max(1.3, float(RATIO_EDGES[filled[-1] + 1])))
    axis.set_yscale("log", nonpositive="clip")
    finish_axis(axis, "distance / sum of covalent radii", "atoms", "Nearest neighbours")


def _work(axis: Axes, pairs: FramePairs | None) -> None:
    finish_axis(axis, "−work of the forces (eV)", "energy change (eV)", "Pairs of frames")
    if pairs is None or len(pairs.change) == 0:
        _nothing(axis, "no close frames\nof one compound")
        return
    axis.axline((0, 0), slope=1, color=EXPECTED, lw=1.2)
    axis.plot(pairs.work, pairs.change, ".", color=NEUTRAL, ms=5)


def _forces(axis: Axes, seen: Scan) -> None:
    finish_axis(axis, "force on an atom (eV/Å)", "atoms", "Forces")
    if not seen.forces.any():
        _nothing(axis, "no forces")
        return
    axis.stairs(seen.forces, FORCE_EDGES, color=NEUTRAL, fill=True)
    axis.axvspan(1.0, 3.0, color=EXPECTED, alpha=0.15, lw=0)
    axis.set_xscale("log")
    filled = np.flatnonzero(seen.forces)
    axis.set_xlim(min(0.5, float(FORCE_EDGES[filled[0]])), max(5.0, float(FORCE_EDGES[filled[-1] + 1])))


def _energies(axis: Axes, found: EnergyFit | None) -> None:
    finish_axis(axis, "energy minus the fit by elements\n(meV/atom)", "molecules", "Energies")
    if found is None:
        _nothing(axis, "no energies")
        return
    values: Float64[np.ndarray, " n"] = 1000 * found.residuals / found.n_atoms
    low, high = np.quantile(values, [0.0005, 0.9995]).tolist()
    span = (low, high) if high > low else (low - 1.0, high + 1.0)
    axis.hist(values, bins=50, range=span, color=NEUTRAL)
    if beyond := int(((values < span[0]) | (values > span[1])).sum()):
        axis.set_title(f"{beyond} beyond, up to {np.abs(values).max():.3g}", loc="right", fontsize=8, color=INK)


def _sizes(axis: Axes, sizes: Int64[np.ndarray, " n"]) -> None:
    width = max(1, int(np.ceil((sizes.max() - sizes.min() + 1) / 40)))
    edges = np.arange(sizes.min(), sizes.max() + width + 1, width) - 0.5
    axis.hist(sizes, bins=list(edges), color=NEUTRAL, edgecolor="white", lw=0.4)
    axis.set_xlim(edges[0] - 1, edges[-1] + 1)
    finish_axis(axis, "atoms", "molecules", "Size")


def _elements(axis: Axes, counts: dict[str, int]) -> None:
    symbols = sorted(counts, key=chemical_symbols.index)
    shares = [100 * counts[s] / sum(counts.values()) for s in symbols]
    bars = axis.bar(symbols, shares, color=NEUTRAL)
    axis.bar_label(bars, fmt="{:.3g}", fontsize=8, color=INK, padding=1)
    axis.margins(y=0.14)
    finish_axis(axis, "element", "share of atoms (%)", "Elements")


def _nothing(axis: Axes, why: str) -> None:
    axis.text(0.5, 0.5, why, transform=axis.transAxes, ha="center", va="center", color=INK)
    axis.set(xticks=[], yticks=[])
