"""What the quickstart shows: records for the report, and the table in the terminal."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from basinet.data.store.store import MoleculeStore
from basinet.evaluation.metrics import Errors, over_seeds, to_unit
from basinet.evaluation.results import (
    STARTS,
    DataSummary,
    MDSeries,
    ModelParity,
    Provenance,
    QuickstartResults,
    ResultRow,
    Stage,
    Start,
    TrainingCurve,
    energies_above_lowest,
)
from basinet.quickstart.config import Job, QuickstartConfig
from basinet.quickstart.stages import PRETRAINED, TIME_STEP
from basinet.terminal import console, say
from basinet.training.log import METRICS_FILE, read_metrics

PACKAGES = ("basinet", "torch", "numpy", "ase", "rdkit", "tblite")


def results(
    config: QuickstartConfig,
    tested: Mapping[Job, Errors],
    dynamics: Sequence[MDSeries],
    stages: Sequence[Stage],
    out: Path,
) -> QuickstartResults:
    """Collect everything for the report."""
    molecules, frames = MoleculeStore.open(out / "molecules"), MoleculeStore.open(out / "frames")
    shown = {start: tested[Job(start, config.most_labels, 0)] for start in STARTS}
    return QuickstartResults(
        molecule=config.name,
        pretraining=f"{len(molecules):,} labelled conformations of {len(set(molecules.smiles)):,} other molecules",
        dynamics_protocol=(
            f"{config.replicas} trajectories of {config.dynamics_steps * TIME_STEP / 1000:g} ps at constant energy "
            f"(velocity Verlet, {TIME_STEP} fs) that start at {config.temperature:g} K"
        ),
        data=[_summary("molecules for pre-training", molecules), _summary("frames for fine-tuning", frames)],
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
    """Print the table, the dynamics and the times."""
    grid = Table(title="Errors on frames of another trajectory", title_justify="left")
    for heading in ("labels", "start", "force MAE, meV/Å", "energy MAE, meV"):
        grid.add_column(heading, justify="left" if heading == "start" else "right")
    for labels in sorted({row.labels for row in found.rows}):
        for start in STARTS:
            chosen = [row for row in found.rows if row.labels == labels and row.start == start]
            forces, energies = [row.force_mae for row in chosen], [row.energy_mae for row in chosen]
            grid.add_row(str(labels), start, _spread(forces), _spread(energies))
    console.print(grid)
    for series in found.dynamics:
        drift = float(np.nanmedian(np.abs(series.energy_drift)))
        say(
            f"dynamics, {series.start}: {series.n_stable} of {series.n_replicas} trajectories kept their bonds for "
            f"{series.duration / 1000:g} ps; energy drift {to_unit(drift, 'meV'):.2g} meV/atom/ps"
        )
    say("time: " + ", ".join(f"{stage.name} {stage.seconds:.0f} s" for stage in found.stages))


def _spread(values: Sequence[float]) -> str:
    found = over_seeds([to_unit(value, "meV") for value in values])
    return f"{found.mean:.1f}" if found.std is None else f"{found.mean:.1f} ± {found.std:.1f}"


def _summary(name: str, store: MoleculeStore) -> DataSummary:
    batch = store.gather(np.arange(len(store)))
    compounds, compound = np.unique(np.array(store.smiles), return_inverse=True)
    skipped = store.manifest.skipped
    return DataSummary(
        name=name,
        atoms_per_molecule=store.atoms_per_molecule,
        atomic_numbers=batch.atomic_numbers.numpy(),
        force_norms=torch.linalg.vector_norm(batch.labels["forces"].double(), dim=-1).numpy(),
        energies=energies_above_lowest(batch.labels["energy"].numpy(), store.atoms_per_molecule, compound),
        facts={
            "conformations": f"{len(store):,} of {len(compounds):,} compounds",
            "of these minima": f"{int(batch.flags['is_equilibrium'].sum()):,}",
            "level of theory": store.manifest.level_of_theory,
            "left out": ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "nothing",
            "units": "eV, Å, eV/Å",
        },
    )


def _curves(jobs: Sequence[Job], out: Path) -> list[TrainingCurve]:
    fine = [_curve(f"{job.labels} labels, {job.start}", job.start, job.directory(out)) for job in jobs]
    return [_curve("pre-training", None, out / PRETRAINED), *fine]


def _curve(name: str, start: Start | None, run: Path) -> TrainingCurve:
    records: list[dict[str, object]] = []
    for record in read_metrics(run / METRICS_FILE):
        keys = ("loss",) if record["kind"] == "train" else ("force_mae",)
        records.append({"step": record["step"], **{key: record[key] for key in keys}})
    return TrainingCurve.from_records(name, start, records, loss_key="loss", force_mae_key="force_mae")
