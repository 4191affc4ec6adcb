"""Collect the results of the quickstart for its report, and print them."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from basinet.data.doctor.doctor import examine
from basinet.data.store.store import MoleculeStore
from basinet.evaluation.metrics import Errors
from basinet.quickstart.config import Job, QuickstartConfig
from basinet.quickstart.report import dynamics_reading, error_tables
from basinet.quickstart.results import (
    STARTS,
    MDSeries,
    ModelParity,
    Provenance,
    QuickstartResults,
    ResultRow,
    Stage,
    Start,
    TrainingCurve,
)
from basinet.quickstart.stages import PRETRAINED, TIME_STEP
from basinet.terminal import columns, say
from basinet.training.log import METRICS_FILE, read_metrics

PACKAGES = ("basinet", "torch", "numpy", "ase", "rdkit", "tblite")


def results(
    config: QuickstartConfig,
    tested: Mapping[Job, Errors],
    dynamics: Sequence[MDSeries],
    stages: Sequence[Stage],
    out: Path,
) -> QuickstartResults:
    """Return the contents of the report."""
    molecules, frames = MoleculeStore.open(out / "molecules"), MoleculeStore.open(out / "frames")
    shown = {start: tested[Job(start, config.most_labels, 0)] for start in STARTS}
    return QuickstartResults(
        molecule=config.name,
        pretraining=f"{len(molecules):,} labelled conformations of {len(set(molecules.smiles)):,} other molecules",
        dynamics_protocol=(
            f"{config.replicas} trajectories of {config.dynamics_steps * TIME_STEP / 1000:g} ps at constant energy "
            f"(velocity Verlet, {TIME_STEP} fs) that start at {config.temperature:g} K"
        ),
        data=[examine(molecules, "molecules for pre-training"), examine(frames, "frames for fine-tuning")],
        curves=_curves([job for job in tested if job.seed == 0], out),
        rows=rows(tested),
        parities=[
            ModelParity(start=start, energies=shown[start].energy_parity, forces=shown[start].force_parity)
            for start in STARTS
        ],
        dynamics=dynamics,
        stages=stages,
        provenance=Provenance(
            command=" ".join(sys.argv),
            seed=0,
            level_of_theory=molecules.manifest.level_of_theory,
            device="CPU, one thread a model",
            versions={name: version(name) for name in PACKAGES},
        ),
    )


def rows(tested: Mapping[Job, Errors]) -> list[ResultRow]:
    """Return the test errors of every fine-tuning."""
    return [
        ResultRow(
            labels=job.labels,
            start=job.start,
            seed=job.seed,
            force_mae=errors.force_mae,
            energy_mae=errors.energy_mae,
        )
        for job, errors in tested.items()
    ]


def show(found: QuickstartResults) -> None:
    """Print the errors, the dynamics and the times."""
    table = error_tables(found.rows)[0]
    columns("Errors on frames of another trajectory", table.header, table.rows)
    say(f"dynamics: {dynamics_reading(found.dynamics)}")
    say("time: " + ", ".join(f"{stage.name} {stage.seconds:.0f} s" for stage in found.stages))


def _curves(jobs: Sequence[Job], out: Path) -> list[TrainingCurve]:
    fine = [_curve(f"{job.labels} labels, {job.start}", job.start, job.directory(out)) for job in jobs]
    return [_curve("pre-training", None, out / PRETRAINED), *fine]


def _curve(name: str, start: Start | None, run: Path) -> TrainingCurve:
    records: list[dict[str, object]] = []
    for record in read_metrics(run / METRICS_FILE):
        keys = ("loss",) if record["kind"] == "train" else ("force_mae",)
        records.append({"step": record["step"], **{key: record[key] for key in keys}})
    return TrainingCurve.from_records(name, start, records, loss_key="loss", force_mae_key="force_mae")
