"""Write the report of the quickstart."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basinet.data.doctor.doctor import Diagnosis
from basinet.evaluation.data_page import doctor_figure, findings_table
from basinet.evaluation.metrics import Spread, over_seeds, to_unit
from basinet.evaluation.report import Picture, Report, Section, Table
from basinet.quickstart.figures import dynamics_figure, learning_figure, parity_figure, training_figure
from basinet.quickstart.results import (
    STARTS,
    MDSeries,
    Provenance,
    QuickstartResults,
    ResultRow,
    Stage,
    Start,
    TrainingCurve,
)


def write_quickstart_report(directory: Path, results: QuickstartResults) -> Path:
    """Write the report of a quickstart run into ``directory`` and return the path of its HTML file."""
    report = Report(
        title=f"{results.molecule}: pre-trained against from scratch",
        lead=f"The pre-trained model first learned from {results.pretraining}. Both models are the same network, "
        f"trained on the same labels of {results.molecule}; all errors are on other structures of it.",
        footer=[_provenance_table(results.provenance), _stage_table(results.stages)],
    )
    if results.rows:
        report.add(_learning_section(results.rows))
    if results.parities:
        report.add(_parity_section(results))
    if results.dynamics:
        report.add(_dynamics_section(results))
    if results.curves:
        report.add(_training_section(results.curves))
    for number, data in enumerate(results.data, start=1):
        report.add(_data_section(data, number))
    return report.write(directory)


def learning_reading(rows: Sequence[ResultRow]) -> str:
    """Describe the effect of pre-training at the smallest number of labels with which both models were tested."""
    both = [n for n in sorted({r.labels for r in rows}) if {r.start for r in rows if r.labels == n} == set(STARTS)]
    if not both:
        return "No number of labels was tested with both models, so nothing can be compared."
    scratch, trained = (_force_spread(rows, both[0], start) for start in STARTS)
    change = 100 * (trained.mean / scratch.mean - 1)
    verb = "lowers" if change < 0 else "raises"
    seeds = "one seed, so its spread is not known" if scratch.n == 1 else f"means of {scratch.n} seeds"
    return (
        f"With {both[0]} labels, pre-training {verb} the force error from {scratch.mean:.3g} to {trained.mean:.3g} "
        f"meV/Å ({change:+.0f} %; {seeds})."
    )


def dynamics_reading(series: Sequence[MDSeries]) -> str:
    """Describe how many replicas of each model stayed intact, and when the first one broke."""
    parts: list[str] = []
    for run in series:
        shortest = "" if run.n_stable == run.n_replicas else f" (first broken after {_ps(run.stability_time.min())} ps)"
        parts.append(f"{run.start}: {run.n_stable} of {run.n_replicas}{shortest}")
    return f"Replicas that stayed intact for {_ps(max(run.duration for run in series))} ps - {'; '.join(parts)}."


def _learning_section(rows: Sequence[ResultRow]) -> Section:
    picture = Picture(
        name="learning", figure=learning_figure(rows), description="Force error against the number of labels"
    )
    return Section(title="Test errors", reading=learning_reading(rows), pictures=[picture], tables=error_tables(rows))


def error_tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Return the errors by label count and start, and if there are several seeds also those of every seed."""
    ordered = sorted(rows, key=lambda row: (row.labels, STARTS.index(row.start), row.seed))
    groups: dict[tuple[int, Start], list[ResultRow]] = {}
    for row in ordered:
        groups.setdefault((row.labels, row.start), []).append(row)
    units = ["force MAE (meV/Å)", "force MAE (kcal/mol/Å)", "energy MAE (meV)"]
    means = [[str(labels), start, str(len(group)), *_error_cells(group)] for (labels, start), group in groups.items()]
    singles = [[str(row.labels), row.start, str(row.seed), *_error_cells([row])] for row in ordered]
    caption = (
        "Mean ± standard deviation over seeds. Force errors are per Cartesian component, energy errors per molecule."
    )
    tables = [Table(header=["labels", "start", "seeds", *units], rows=means, caption=caption)]
    if len(singles) > len(means):
        tables.append(Table(header=["labels", "start", "seed", *units], rows=singles, folded="Errors of every seed"))
    return tables


def _error_cells(rows: Sequence[ResultRow]) -> list[str]:
    """Return force MAE in two units and energy MAE, over the seeds in ``rows``."""
    forces, energies = [row.force_mae for row in rows], [row.energy_mae for row in rows]
    columns = [(forces, "meV", 1), (forces, "kcal/mol", 3), (energies, "meV", 1)]
    spreads = [(over_seeds([to_unit(x, unit) for x in values]), digits) for values, unit, digits in columns]
    return [
        f"{spread.mean:.{digits}f}" + (f" ± {spread.std:.{digits}f}" if spread.std is not None else "")
        for spread, digits in spreads
    ]


def _parity_section(results: QuickstartResults) -> Section:
    picture = Picture(
        name="parity", figure=parity_figure(results.parities), description="Predictions against reference values"
    )
    return Section(
        title="Predictions against the reference",
        reading="Energies are relative to the mean reference energy; on the line, prediction equals reference.",
        pictures=[picture],
    )


def _dynamics_section(results: QuickstartResults) -> Section:
    table = Table(
        header=["start", "replicas", "stayed intact", "shortest (ps)", "mean (ps)", "energy drift (meV/atom/ps)"],
        rows=[
            [
                run.start,
                str(run.n_replicas),
                str(run.n_stable),
                _ps(run.stability_time.min()),
                _ps(run.stability_time.mean()),
                _drift(run),
            ]
            for run in results.dynamics
        ],
        caption="A replica is intact until a bond deviates by more than "
        f"{results.dynamics[0].bond_tolerance} Å or a value is not finite. Drift: median size of the slope of the "
        "total energy.",
    )
    picture = Picture(
        name="dynamics",
        figure=dynamics_figure(results.dynamics),
        description="Total energy, temperature and bond deviation against time",
    )
    reading = f"{dynamics_reading(results.dynamics)} {results.dynamics_protocol}."
    return Section(title="Molecular dynamics", reading=reading, pictures=[picture], tables=[table])


def _training_section(curves: Sequence[TrainingCurve]) -> Section:
    groups = {
        "pretraining": [curve for curve in curves if curve.start is None],
        "finetuning": [curve for curve in curves if curve.start is not None],
    }
    pictures = [
        Picture(name=name, figure=training_figure(group), description=f"Loss and validation force error of {name}")
        for name, group in groups.items()
        if group
    ]
    reading = "Losses of pre-training and fine-tuning are of different objectives and cannot be compared."
    return Section(title="Training", reading=reading, pictures=pictures)


def _data_section(diagnosis: Diagnosis, number: int) -> Section:
    picture = Picture(
        name=f"data-{number}",
        figure=doctor_figure(diagnosis),
        description=f"Bond lengths, forces, energies, sizes and elements of the {diagnosis.name}",
    )
    manifest = diagnosis.store.manifest
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.skipped.items()) or "nothing"
    counts = f"{len(diagnosis.store):,} conformations of {len(set(diagnosis.store.smiles)):,} compounds"
    return Section(
        title=f"Data: {diagnosis.name}",
        reading=f"{counts}, {manifest.level_of_theory}; skipped: {skipped}. Checks: {diagnosis.verdict}.",
        pictures=[picture],
        tables=[findings_table(diagnosis, folded="Checks of the data")],
    )


def _provenance_table(provenance: Provenance) -> Table:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    rows = [
        ("command", provenance.command),
        ("seed", str(provenance.seed)),
        ("level of theory", provenance.level_of_theory),
        ("device", provenance.device),
        ("versions", versions),
    ]
    return Table(header=["provenance", ""], rows=rows)


def _stage_table(stages: Sequence[Stage]) -> Table:
    total = Stage(name="total", seconds=math.fsum(stage.seconds for stage in stages))
    rows = [[stage.name, f"{stage.seconds:.1f}"] for stage in [*stages, total]]
    return Table(header=["stage", "wall time (s)"], rows=rows)


def _force_spread(rows: Sequence[ResultRow], labels: int, start: Start) -> Spread:
    return over_seeds([to_unit(r.force_mae, "meV") for r in rows if r.labels == labels and r.start == start])


def _ps(femtoseconds: float) -> str:
    return f"{femtoseconds / 1000:.3g}"


def _drift(run: MDSeries) -> str:
    known = run.energy_drift[np.isfinite(run.energy_drift)]
    return f"{1000 * np.median(np.abs(known)):.3g}" if len(known) else "not known"
