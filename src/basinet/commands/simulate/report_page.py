"""Write the report of a simulation: energy, temperature, bonds and structure against time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from basinet.commands.simulate.simulate import SPREAD_COLUMN
from basinet.evaluation.plots import INK, NEUTRAL, finish_axis, new_figure
from basinet.evaluation.report import Picture, Report, Section, Table
from basinet.units import BOLTZMANN

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe and Ito."""
LINES = 16
"""Largest number of replicas with a line each; with more, only the median and a band are drawn."""
MOST_BINS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSeries:
    """Records of a simulation; NaN after a replica failed."""

    times: Float64[np.ndarray, " n_records"]
    """ps."""
    columns: Mapping[str, Float64[np.ndarray, "n_records n_replicas"]]
    """By name, as in ``records.csv``."""
    n_atoms: Sequence[int]
    """Atoms of each replica."""
    degrees_of_freedom: Sequence[int]
    """Degrees of freedom with kinetic energy, of each replica."""
    temperature: float | None
    """Temperature of the thermostat, K; ``None`` without one."""
    bond_tolerance: float
    """Å."""
    distances: Float64[np.ndarray, "2 n_bins"]
    """h(r) before and after ``half``, 1/Å."""
    half: float
    """ps."""
    largest_distance: float
    """End of the last bin of h(r), Å."""
    spread_limit: float | None = None
    """Force disagreement at which a replica stops, eV/Å."""

    @property
    def bonds(self) -> list[str]:
        """Kinds of bonds, such as C-H."""
        return [name.removesuffix("_A") for name in self.columns if name not in (*STANDARD, SPREAD_COLUMN)]


STANDARD = (
    "potential_eV",
    "kinetic_eV",
    "temperature_K",
    "conserved_eV",
    "bond_deviation_A",
    "rmsd_A",
)
"""Columns of every simulation; the others are bond lengths and :data:`SPREAD_COLUMN`."""


def read_records(path: Path, n_replicas: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the times (ps) of a table of records and its columns as [n_records, n_replicas]."""
    with open(path, encoding="utf-8") as file:
        names = file.readline().strip().split(",")
        rows = np.loadtxt(file, delimiter=",", ndmin=2).reshape(-1, len(names))
    times, record = np.unique(rows[:, 0], return_inverse=True)
    columns = {name: np.full((len(times), n_replicas), np.nan) for name in names[2:]}
    for i, values in enumerate(columns.values(), start=2):
        values[record, rows[:, 1].astype(int)] = rows[:, i]
    return times, columns


def energy_figure(series: SimulationSeries) -> Figure:
    """Return the changes of the conserved and the potential energy against time."""
    figure = new_figure(4.8)
    above, below = figure.subplots(2, 1, sharex=True)
    atoms = np.array(series.n_atoms)
    change = (series.columns["conserved_eV"] - series.columns["conserved_eV"][0]) / atoms * 1000
    _replicas(above, series.times, change, COLOURS[0])
    title = "Conserved energy, with the bath" if series.temperature is not None else "Total energy"
    finish_axis(above, "", "change per atom (meV)", title)
    potential = (series.columns["potential_eV"] - series.columns["potential_eV"][0]) / atoms * 1000
    _replicas(below, series.times, potential, COLOURS[1])
    finish_axis(below, "time (ps)", "change per atom (meV)", "Potential energy")
    return figure


def temperature_figure(series: SimulationSeries) -> Figure:
    """Return the temperature against time, and the distribution of the kinetic energy with the canonical one."""
    figure = new_figure(3.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _replicas(left, series.times, series.columns["temperature_K"], COLOURS[1])
    if series.temperature is not None:
        left.axhline(series.temperature, color=INK, lw=0.9, ls=":")
    left.set_ylim(bottom=0)
    finish_axis(left, "time (ps)", "temperature (K)", "Temperature")
    later = series.times > series.times[-1] / 5
    kinetic = series.columns["kinetic_eV"][later]
    known = kinetic[np.isfinite(kinetic)]
    if len(known) > 1 and np.ptp(known) > 0:
        bins = min(MOST_BINS, max(8, int(math.sqrt(len(known)))))
        _, edges, _ = right.hist(known, bins=bins, density=True, color=NEUTRAL, label="simulated")
        if series.temperature:
            places = np.linspace(edges[0], edges[-1], 200)
            right.plot(places, _canonical(places, series), color=INK, lw=1.3, label="canonical")
        right.legend(frameon=False, fontsize=9)
    finish_axis(right, "kinetic energy (eV)", "density (1/eV)", "Kinetic energy, last four fifths")
    return figure


def _canonical(energy: np.ndarray, series: SimulationSeries) -> np.ndarray:
    """Return the canonical density of the kinetic energy: a mean of gamma distributions."""
    assert series.temperature is not None
    kt = BOLTZMANN * series.temperature
    x = np.maximum(energy, 1e-12) / kt
    shapes = [f / 2 for f in series.degrees_of_freedom if f > 0]
    densities = [np.exp((k - 1) * np.log(x) - x - math.lgamma(k)) / kt for k in shapes]
    return np.mean(densities, axis=0)


def bonds_figure(series: SimulationSeries) -> Figure:
    """Return the most deviating bond and the mean length of each kind of bond against time."""
    figure = new_figure(4.8)
    above, below = figure.subplots(2, 1, sharex=True)
    _replicas(above, series.times, series.columns["bond_deviation_A"], COLOURS[0])
    above.axhline(series.bond_tolerance, color=INK, lw=0.9, ls=":")
    above.set_ylim(0, 1.2 * max(series.bond_tolerance, float(np.nanmax(series.columns["bond_deviation_A"]))))
    finish_axis(above, "", "deviation (Å)", f"Most deviating bond (broken above {series.bond_tolerance:g} Å)")
    for i, kind in enumerate(series.bonds):
        median, low, high = _bands(series.columns[f"{kind}_A"])
        colour = COLOURS[i % len(COLOURS)]
        below.plot(series.times, median, color=colour, lw=1.2, ls="-" if i < len(COLOURS) else "--", label=kind)
        below.fill_between(series.times, low, high, color=colour, alpha=0.15, lw=0)
    if series.bonds:
        below.legend(frameon=False, fontsize=9, ncols=4)
    finish_axis(below, "time (ps)", "mean length (Å)", "Bonds by kind: median and 5 to 95 % of the replicas")
    return figure


def spread_figure(series: SimulationSeries) -> Figure:
    """Return the largest force disagreement of an ensemble against time."""
    figure = new_figure(3.0)
    axis = figure.subplots()
    _replicas(axis, series.times, series.columns[SPREAD_COLUMN], COLOURS[3])
    if series.spread_limit is not None:
        axis.axhline(series.spread_limit, color=INK, lw=0.9, ls=":")
    axis.set_ylim(bottom=0)
    finish_axis(axis, "time (ps)", "deviation (eV/Å)", "Largest force disagreement of the ensemble")
    return figure


def structure_figure(series: SimulationSeries) -> Figure:
    """Return h(r) of both halves, and the RMSD from the start against time."""
    figure = new_figure(3.2)
    left, right = figure.subplots(1, 2)
    width = series.largest_distance / series.distances.shape[1]
    places = (np.arange(series.distances.shape[1]) + 0.5) * width
    labels = (f"until {series.half:g} ps", f"after {series.half:g} ps")
    for h, label, colour, style in zip(series.distances, labels, COLOURS, ("-", "--"), strict=False):
        if h.any():
            left.plot(places, h, color=colour, ls=style, lw=1.1, label=label)
    filled = np.flatnonzero(series.distances.sum(axis=0))
    if len(filled):
        left.set_xlim(max(0.0, places[filled[0]] - 0.3), places[filled[-1]] + 0.3)
        left.legend(frameon=False, fontsize=9)
    finish_axis(left, "distance (Å)", "h(r) (1/Å)", "Distances between atoms")
    _replicas(right, series.times, series.columns["rmsd_A"], COLOURS[2])
    right.set_ylim(bottom=0)
    finish_axis(right, "time (ps)", "RMSD (Å)", "Distance from the start")
    return figure


def _replicas(axis: Axes, times: np.ndarray, values: np.ndarray, colour: str) -> None:
    """Draw the median and the 5 % to 95 % band of the replicas, and each of them if they are few."""
    median, low, high = _bands(values)
    if values.shape[1] <= LINES:
        axis.plot(times, values, color=colour, lw=0.6, alpha=0.35)
    if values.shape[1] > 1:
        axis.fill_between(times, low, high, color=colour, alpha=0.15, lw=0)
    axis.plot(times, median, color=colour, lw=1.4)


def _bands(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    out = np.full((3, len(values)), np.nan)
    known = np.isfinite(values).any(axis=1)
    if known.any():
        out[:, known] = np.nanpercentile(values[known], (50, 5, 95), axis=1)
    return out[0], out[1], out[2]


def write_simulation_report(
    directory: Path,
    series: SimulationSeries,
    *,
    title: str,
    lead: str,
    summary: Mapping[str, str],
    replicas: Table,
    further: Sequence[Section] = (),
) -> Path:
    """Write ``report.html`` and its pictures, and return its path.

    Args:
        directory: directory of the page.
        series: records.
        title: title of the page.
        lead: first lines of the page.
        summary: rows of the first table.
        replicas: table with a row for each replica.
        further: sections after the summary.
    """
    report = Report(title=title, lead=lead)
    report.add(
        Section(
            title="Summary",
            reading="A replica is intact until a bond breaks, its temperature or a value is out of range.",
            tables=[Table(header=["", "value"], rows=[list(row) for row in summary.items()]), replicas],
        )
    )
    for section in further:
        report.add(section)
    energy = "The sum of potential energy, kinetic energy and energy given to the bath should be constant."
    pictures = [
        ("Energy", energy, "energy", energy_figure),
        ("Temperature", "The kinetic energy should follow the canonical curve.", "temperature", temperature_figure),
        ("Bonds", "Bond lengths should oscillate about a constant value.", "bonds", bonds_figure),
        ("Structure", "Equal distributions in both halves mean converged sampling.", "structure", structure_figure),
    ]
    if SPREAD_COLUMN in series.columns:
        what = "Large disagreement means that the training data has no similar structures."
        pictures.append(("Uncertainty", what, "uncertainty", spread_figure))
    for name, reading, file, draw in pictures:
        picture = Picture(name=file, figure=draw(series), description=f"{name} of all replicas")
        report.add(Section(title=name, reading=reading, pictures=[picture]))
    return report.write(directory)
