"""Summarise a simulation: ``summary.json``, ``report.html`` and a table for the terminal."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basinet.commands.simulate.report_page import SimulationSeries, read_records, write_simulation_report
from basinet.commands.simulate.simulate import RECORDS_FILE, SPREAD_COLUMN, Simulation
from basinet.evaluation.report import Table
from basinet.files import write_text
from basinet.md.observables import HISTOGRAM_RANGE, normalised

DAY = 86400.0
"""Seconds."""


class ReplicaSummary(NamedTuple):
    """Summary of one replica."""

    replica: int
    stable_ps: float
    reason: str
    """Reason of its stop; empty if it did not stop."""
    temperature: float
    """Mean, K."""
    drift: float
    """Slope of the conserved energy, meV/atom/ps."""
    largest_deviation: float
    """Largest deviation of a bond from its initial length, Å."""
    rmsd: float
    """Distance of the last frame from the first, Å."""


class SimulationSummary(NamedTuple):
    """Summary of a simulation."""

    replicas: list[ReplicaSummary]
    rows: dict[str, str]
    """Table for the terminal."""
    report: Path

    @property
    def n_failed(self) -> int:
        """Number of replicas that stopped early."""
        return sum(bool(one.reason) for one in self.replicas)


def summarise(done: Simulation, out: Path) -> SimulationSummary:
    """Write the summary and the report of a simulation into its directory."""
    series = series_of(done, out)
    replicas = replicas_of(done, series)
    spreads = series.columns.get(SPREAD_COLUMN)
    rows = _rows(done, replicas, None if spreads is None else float(np.nanmax(spreads)))
    content = {
        "units": "ps, K, meV/atom/ps, Angstrom",
        "picoseconds": done.config.picoseconds,
        "reached_ps": done.dynamics.time / 1000,
        "n_replicas": len(replicas),
        "n_failed": sum(bool(r.reason) for r in replicas),
        "replicas": [plain(one._asdict()) for one in replicas],
    }
    write_text(out / "summary.json", json.dumps(content, indent=2) + "\n")
    header = ["replica", "intact (ps)", "stopped by", "mean T (K)", "drift (meV/atom/ps)", "bond (Å)", "RMSD (Å)"]
    table = Table(header=header, rows=[replica_cells(r) for r in replicas], folded="Every replica")
    name = done.molecules[0].name or done.molecules[0].formula
    path = write_simulation_report(
        out,
        series,
        title=f"Dynamics of {done.molecules[0].formula}",
        lead=f"From {name} with {done.config.model}: {len(replicas)} replicas, {done.config.thermostat}, "
        f"{done.config.dt:g} fs, {done.config.temperature:g} K.",
        summary=rows,
        replicas=table,
    )
    return SimulationSummary(replicas, rows, path)


def replica_cells(one: ReplicaSummary) -> list[str]:
    """Return one replica as a row of text."""
    return [
        str(one.replica),
        f"{one.stable_ps:.4g}",
        one.reason or "-",
        f"{one.temperature:.0f}",
        f"{one.drift:.3g}",
        f"{one.largest_deviation:.3f}",
        f"{one.rmsd:.3f}",
    ]


def series_of(done: Simulation, out: Path) -> SimulationSeries:
    """Return the records of a simulation, for figures."""
    times, columns = read_records(out / RECORDS_FILE, len(done.molecules))
    integrator, batch = done.dynamics.integrator, done.dynamics.state.batch
    return SimulationSeries(
        times=times,
        columns=columns,
        n_atoms=[m.n_atoms for m in done.molecules],
        degrees_of_freedom=integrator.degrees_of_freedom(batch).tolist(),
        temperature=None if done.config.thermostat == "nve" else done.config.temperature,
        bond_tolerance=done.config.bond_tolerance,
        distances=normalised(done.distances.counts.sum(dim=1)).cpu().numpy(),
        half=done.distances.half / 1000,
        largest_distance=HISTOGRAM_RANGE,
        spread_limit=done.config.stop_force_std,
    )


def replicas_of(done: Simulation, series: SimulationSeries) -> list[ReplicaSummary]:
    """Return the summary of each replica."""
    failures = {f.molecule: f for f in done.dynamics.failures}
    found: list[ReplicaSummary] = []
    for i, n_atoms in enumerate(series.n_atoms):
        known = np.isfinite(series.columns["potential_eV"][:, i])
        column = {name: values[known, i] for name, values in series.columns.items()}
        failure = failures.get(i)
        found.append(
            ReplicaSummary(
                replica=i,
                stable_ps=done.dynamics.time / 1000 if failure is None else failure.time / 1000,
                reason="" if failure is None else failure.reason,
                temperature=_mean(column["temperature_K"]),
                drift=_slope(series.times[known], column["conserved_eV"]) / n_atoms * 1000,
                largest_deviation=float(column["bond_deviation_A"].max(initial=0.0)),
                rmsd=float(column["rmsd_A"][-1]) if known.any() else math.nan,
            )
        )
    return found


def _rows(done: Simulation, replicas: Sequence[ReplicaSummary], spread: float | None) -> dict[str, str]:
    config, n = done.config, len(replicas)
    failed = [r for r in replicas if r.reason]
    reasons = sorted({r.reason for r in failed})
    why = "; ".join(f"{sum(r.reason == reason for r in failed)}: {reason}" for reason in reasons)
    drifts = np.array([r.drift for r in replicas])
    drifts = drifts[np.isfinite(drifts)]
    rows = {
        "molecule": f"{done.molecules[0].formula}, {n} replicas, {done.dynamics.time / 1000:.4g} ps",
        "stayed intact": f"{n - len(failed)} of {n}" + (f" ({why})" if failed else ""),
        "mean temperature": f"{_mean(np.array([r.temperature for r in replicas])):.1f} K"
        + ("" if config.thermostat == "nve" else f" of {config.temperature:g} K"),
        "energy drift": f"{np.median(np.abs(drifts)):.3g} meV/atom/ps (median)" if len(drifts) else "not known",
        "largest bond deviation": f"{max(r.largest_deviation for r in replicas):.3f} Å",
        "RMSD from the start": f"{_mean(np.array([r.rmsd for r in replicas])):.3f} Å (mean, last frame)",
    }
    if spread is not None:
        rows["force disagreement"] = f"{spread:.3g} eV/Å at most (standard deviation of the ensemble)"
    if failed:
        rows["first to stop"] = f"replica {min(failed, key=lambda r: r.stable_ps).replica} at " + (
            f"{min(r.stable_ps for r in failed):.4g} ps"
        )
    if done.steps_done and done.seconds > 0:
        per_replica = done.steps_done * config.dt * 1e-6 / done.seconds * DAY
        rows["speed"] = (
            f"{per_replica:.3g} ns/day per replica, {per_replica * n:.3g} ns/day in total, "
            f"{done.steps_done / done.seconds:.3g} steps/s"
        )
    return rows


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _slope(times: np.ndarray, values: np.ndarray) -> float:
    return float(np.polyfit(times, values, 1)[0]) if len(times) > 1 else math.nan


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values for JSON: numbers that are not finite become ``None``."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
