"""Write the results of the MD17 benchmark: ``result.json``, ``result.md``, ``report.html``."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.figure import Figure
from torch import Tensor

from basinet.commands.simulate.benchmark import MDBenchmark
from basinet.commands.simulate.report import plain, replica_cells, replicas_of, series_of
from basinet.commands.simulate.report_page import write_simulation_report
from basinet.commands.simulate.settings import (
    DT,
    PICOSECONDS,
    REPLICAS,
    SPLIT,
    TEMPERATURE,
    TEST_FRAMES,
    MDBenchmarkConfig,
)
from basinet.evaluation.plots import INK, finish_axis, legend, new_figure
from basinet.evaluation.report import Picture, Section, Table
from basinet.files import write_text
from basinet.md.observables import HISTOGRAM_RANGE, histogram_error
from basinet.structures import Molecule

CITATION = "Fu et al., Forces are not Enough, TMLR 2023 (arXiv 2210.07237)"
MOLECULES = {"C9H8O4": "aspirin", "C2H6O": "ethanol", "C10H8": "naphthalene", "C7H6O3": "salicylic acid"}
LEAST_FRAMES = 100_000
"""Frames that the MD17 files of these four molecules have at least."""


class BenchmarkRun(NamedTuple):
    """Result of one run."""

    run: int
    start: int
    """Frame of the data it starts from."""
    stable_ps: float
    """Time intact by the bonds of its first frame, as published."""
    stable_topology_ps: float
    """Time intact by the bonds of the molecule."""
    reason: str
    """Reason of its stop; empty if it stayed intact."""
    h_error: float
    """Integral of |h - h_ref| up to the first broken bond, 0 to 2; NaN without frames."""
    closest: float
    """Smallest distance of two atoms up to then, to a bin of h(r), Å; NaN without frames."""
    temperature: float
    """Mean, K."""


class BenchmarkResult(NamedTuple):
    """Results of a benchmark."""

    runs: list[BenchmarkRun]
    departures: list[str]
    rows: dict[str, str]
    """Table for the terminal."""
    report: Path


def report_benchmark(done: MDBenchmark, out: Path) -> BenchmarkResult:
    """Write the results of a benchmark into its directory."""
    series = series_of(done.simulation, out)
    replicas = replicas_of(done.simulation, series)
    histograms = done.simulation.distances.histograms().cpu()
    runs = _runs(done, [r.temperature for r in replicas])
    molecule = done.simulation.molecules[0]
    away = departures(done.before.config, molecule, done.before.reference.n_frames, done.before.measured.n_test)
    rows = _rows(done, runs, away)
    write_text(out / "result.json", json.dumps(_content(done, runs, away), indent=2) + "\n")
    write_text(out / "result.md", _markdown(done, runs, away))
    drawn = BenchmarkSeries(
        reference=done.before.reference.histogram.numpy(),
        runs=histograms.numpy(),
        largest_distance=HISTOGRAM_RANGE,
        stable=[r.stable_ps for r in runs],
        picoseconds=done.before.config.picoseconds,
    )
    section = Section(
        title="Benchmark",
        reading="Runs should stay intact, with the distances of the data; a small force error does not imply either.",
        pictures=[
            Picture(name="benchmark", figure=benchmark_figure(drawn), description="h(r) and stable time of the runs")
        ],
        tables=[Table(header=RUN_HEADER, rows=[run_cells(r) for r in runs])],
    )
    header = ["replica", "length (ps)", "stopped by", "mean T (K)", "drift (meV/atom/ps)", "bond (Å)", "RMSD (Å)"]
    report = write_simulation_report(
        out,
        series,
        title=f"MD benchmark: {_name(done)}",
        lead=f"{CITATION}, with {done.before.config.name}. "
        + ("The full protocol." if not away else f"Not the full protocol: {'; '.join(away)}."),
        summary=rows,
        replicas=Table(header=header, rows=[replica_cells(r) for r in replicas], folded="Every replica"),
        further=[section],
    )
    return BenchmarkResult(runs, away, rows, report)


RUN_HEADER = (
    "run",
    "start frame",
    "intact (ps)",
    "by topology (ps)",
    "stopped by",
    "h(r) error",
    "closest (Å)",
    "mean T (K)",
)


def run_cells(one: BenchmarkRun) -> list[str]:
    """Return one run as a row of text."""
    return [
        str(one.run),
        str(one.start),
        f"{one.stable_ps:.4g}",
        f"{one.stable_topology_ps:.4g}",
        one.reason or "-",
        f"{one.h_error:.3f}",
        f"{one.closest:.2f}",
        f"{one.temperature:.0f}",
    ]


def _runs(done: MDBenchmark, temperatures: Sequence[float]) -> list[BenchmarkRun]:
    failures = {f.molecule: f for f in done.simulation.dynamics.failures}
    distances, first = done.simulation.distances, done.broken.times.cpu() / 1000
    histograms, counted = distances.histograms().cpu(), distances.counts.sum(dim=(0, 2)).cpu()
    found: list[BenchmarkRun] = []
    for i, temperature in enumerate(temperatures):
        failure = failures.get(i)
        end = done.before.config.picoseconds if failure is None else failure.time / 1000
        intact, by_topology = (min(end, float(first[way, i])) for way in (0, 1))
        is_broken = math.isfinite(float(first[0, i]))
        reason = "" if failure is None else failure.reason
        found.append(
            BenchmarkRun(
                run=i,
                start=int(done.before.starts[i]),
                stable_ps=intact,
                stable_topology_ps=by_topology,
                reason="a bond broke" if is_broken else reason,
                h_error=histogram_error(histograms[i], done.before.reference.histogram) if counted[i] else math.nan,
                closest=_closest(histograms[i]),
                temperature=temperature,
            )
        )
    return found


def _closest(histogram: Tensor) -> float:
    """Return the smallest distance in h(r), Å."""
    filled = torch.nonzero(histogram).flatten().tolist()
    return filled[0] * HISTOGRAM_RANGE / len(histogram) if filled else math.nan


def _rows(done: MDBenchmark, runs: Sequence[BenchmarkRun], away: Sequence[str]) -> dict[str, str]:
    intact = [r.h_error for r in runs if not r.reason]
    topology = [r.stable_topology_ps for r in runs]
    speed = done.before.measured.speed
    errors = _spread([r.h_error for r in runs])
    rows = {
        "molecule": f"{_name(done)}, {len(runs)} runs of {done.before.config.picoseconds:g} ps at {TEMPERATURE:g} K",
        "protocol": "as published" if not away else "not the full one: " + "; ".join(away),
        "force MAE": f"{1000 * done.before.measured.force_mae:.4g} meV/Å ({done.before.measured.n_test:,} frames)",
        "stability": f"{_spread([r.stable_ps for r in runs])} ps; {len(intact)} of {len(runs)} intact to the end",
        "h(r) error": errors
        + (f"; of intact runs {_spread(intact)}" if intact else "")
        + f"; of as many reference frames {done.before.noise:.2g}",
    }
    known = [r for r in runs if math.isfinite(r.closest)]
    if known:
        nearest = min(known, key=lambda r: r.closest)
        known_least = _closest(done.before.reference.histogram)
        rows["closest atoms"] = f"{nearest.closest:.2f} Å, in run {nearest.run}; {known_least:.2f} Å in the data"
    if topology != [r.stable_ps for r in runs]:
        rows["stability by topology"] = f"{_spread(topology)} ps (bonds of the mean geometry, not of the first frame)"
    if speed is not None:
        rows["speed"] = (
            f"{speed.steps_per_second:.3g} steps/s of one replica ({1000 * speed.overhead:.2g} ms per step outside "
            "the force field)"
        )
        if math.isfinite(together := _together(done)):
            rows["speed"] += f"; {together:.3g} steps/s of {len(runs)} together"
    return rows


def _together(done: MDBenchmark) -> float:
    """Return the steps per second of all replicas together; NaN if this process made none."""
    simulation = done.simulation
    return len(simulation.molecules) * simulation.steps_done / simulation.seconds if simulation.steps_done else math.nan


def _content(done: MDBenchmark, runs: Sequence[BenchmarkRun], away: Sequence[str]) -> dict[str, object]:
    config, measured, speed = done.before.config, done.before.measured, done.before.measured.speed
    intact = [r.h_error for r in runs if not r.reason]
    return {
        "benchmark": CITATION,
        "is_full_protocol": not away,
        "departures": list(away),
        "examined": config.name,
        "data": str(config.data),
        "molecule": _name(done),
        "protocol": f"Nose-Hoover {TEMPERATURE:g} K, {DT:g} fs, {config.picoseconds:g} ps, a frame every 50 fs",
        "force_mae_meV_per_A": 1000 * measured.force_mae,
        "n_test_frames": measured.n_test,
        "n_reference_frames": done.before.reference.n_frames,
        "stability_ps": _moments([r.stable_ps for r in runs]),
        "stability_topology_ps": _moments([r.stable_topology_ps for r in runs]),
        "h_error": _moments([r.h_error for r in runs]),
        "h_error_of_whole_runs": _moments(intact),
        "h_error_of_as_many_reference_frames": done.before.noise,
        "closest_atoms_in_reference_A": _closest(done.before.reference.histogram),
        "steps_per_second_of_one": None if speed is None else speed.steps_per_second,
        "overhead_ms_per_step": None if speed is None else 1000 * speed.overhead,
        **plain({"steps_per_second_of_all": _together(done)}),
        "runs": [plain(r._asdict()) for r in runs],
    }


def departures(config: MDBenchmarkConfig, molecule: Molecule, n_frames: int, n_test: int) -> list[str]:
    """Return the differences from the published protocol."""
    found: list[str] = []
    if molecule.formula not in MOLECULES:
        found.append(f"{molecule.formula} is not one of its molecules ({', '.join(MOLECULES.values())})")
    if config.picoseconds != PICOSECONDS:
        found.append(f"{config.picoseconds:g} ps instead of {PICOSECONDS:g}")
    if config.replicas != REPLICAS:
        found.append(f"{config.replicas} runs instead of {REPLICAS}")
    if config.split != SPLIT:
        found.append(f"test frames of split {config.split} instead of {SPLIT}")
    if n_test < TEST_FRAMES:
        found.append(f"force error of {n_test:,} frames instead of {TEST_FRAMES:,}")
    if n_frames < LEAST_FRAMES:
        found.append(f"h(r) and bond lengths of {n_frames:,} reference frames instead of all of MD17")
    return found


def _markdown(done: MDBenchmark, runs: Sequence[BenchmarkRun], away: Sequence[str]) -> str:
    """Return the result as a row of the published table."""
    config, measured, speed = done.before.config, done.before.measured, done.before.measured.speed
    cells = [
        _name(done),
        config.name,
        f"{1000 * measured.force_mae:.1f}",
        _spread([r.stable_ps for r in runs]),
        _spread([r.h_error for r in runs]),
        "-" if speed is None else f"{speed.steps_per_second:.1f}",
    ]
    note = "The full protocol" if not away else f"**Not the full protocol**: {'; '.join(away)}"
    return (
        "| molecule | model | force MAE (meV/Å) | stability (ps) | h(r) error | steps/s |\n|---|---|---|---|---|---|\n"
        f"| {' | '.join(cells)} |\n\n{note}. {CITATION}: {TEMPERATURE:g} K, Nosé-Hoover, {DT:g} fs, "
        f"{config.picoseconds:g} ps; mean (standard deviation) of {len(runs)} runs. Published numbers are of models "
        "trained on 9,500 frames of MD17.\n"
    )


def _name(done: MDBenchmark) -> str:
    formula = done.simulation.molecules[0].formula
    return MOLECULES.get(formula, formula)


def _moments(values: Sequence[float]) -> dict[str, float | int | None]:
    known = np.array([v for v in values if math.isfinite(v)])
    mean = float(known.mean()) if len(known) else None
    return {"mean": mean, "std": float(known.std(ddof=1)) if len(known) > 1 else None, "runs": len(known)}


def _spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation in the format of the published table."""
    found = _moments(values)
    if found["mean"] is None:
        return "not known"
    return f"{found['mean']:.3g}" + ("" if found["std"] is None else f" ({found['std']:.2g})")


RUNS, INTACT, BROKEN = "#0072B2", "#009E73", "#D55E00"
"""Palette of Okabe and Ito."""
REFERENCE = "#cccccc"


class BenchmarkSeries(NamedTuple):
    """Data of the figure."""

    reference: Float64[np.ndarray, " n_bins"]
    """h(r) of the data, 1/Å."""
    runs: Float64[np.ndarray, "n_runs n_bins"]
    """h(r) of each run up to the first broken bond, 1/Å."""
    largest_distance: float
    """End of the last bin, Å."""
    stable: Sequence[float]
    """Time intact of each run, ps."""
    picoseconds: float
    """Requested length, ps."""


def benchmark_figure(series: BenchmarkSeries) -> Figure:
    """Return h(r) of the runs and the reference, and the intact time of each run."""
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
    colours = [INTACT if t >= series.picoseconds else BROKEN for t in series.stable]
    right.barh(names, series.stable, color=colours, height=0.6)
    right.axvline(series.picoseconds, color=INK, lw=0.9, ls=":")
    right.set_xlim(0, 1.05 * series.picoseconds)
    right.invert_yaxis()
    finish_axis(right, "time intact (ps)", "run", f"Stability, of {series.picoseconds:g} ps")
    return figure
