"""The main job from end to end, on data it makes itself: label, pre-train, fine-tune, test, simulate, report.

Every stage leaves its files in a directory of its own and is skipped, or resumed, when they are there already.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.table import Table

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.config import settings
from basinet.data.generate import GenerateConfig, TrajectoryConfig, chain_of, generate, trajectory
from basinet.data.splits import Split, random_split
from basinet.data.store import MoleculeStore, StoreWriter
from basinet.evaluation.metrics import Errors, over_seeds, to_unit
from basinet.evaluation.report import write_quickstart_report
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
from basinet.md.integrators import VelocityVerlet
from basinet.md.observables import BOND_TOLERANCE, bond_deviation, energy_drift, reference_bonds, stability_time
from basinet.md.simulate import simulate
from basinet.models.checkpoint import load_model
from basinet.recipe import FinetuneRecipe, PretrainRecipe
from basinet.runs.common import LAST_FILE, MODEL_FILE, RECIPE_FILE, batches, errors_of
from basinet.runs.finetune import SCRATCH, finetune
from basinet.runs.pretrain import pretrain
from basinet.structures.batch import Batch, collate
from basinet.terminal import console, progress, say
from basinet.training.fit import Progress, TrainingConfig
from basinet.training.log import read_metrics
from basinet.training.optim import OptimizerConfig

METRICS_FILE = "metrics.jsonl"


@settings
class QuickstartConfig:
    """Sizes that fit into six minutes on two cores."""

    smiles: str = "O=C(O)c1ccccc1O"
    """The molecule of the fine-tuning, never seen in pre-training: salicylic acid."""
    seeds: int = 1
    """Repetitions of the fine-tuning, with other labels and other fresh weights."""
    processes: int | None = None
    """Processes for labelling; null: all cores."""
    n_molecules: int = 300
    """Compounds to pre-train on."""
    label_counts: tuple[int, ...] = (50, 200)
    """Labelled frames to fine-tune on."""
    n_validation: int = 50
    """Frames that choose the best step of a fine-tuning."""
    n_test: int = 250
    """Frames to test on, from a trajectory of its own."""
    pretrain_steps: int = 1000
    """Steps of pre-training."""
    finetune_steps: int = 300
    """Steps of each fine-tuning."""
    dynamics_steps: int = 1000
    """Time steps of 0.5 fs."""
    replicas: int = 4
    """Trajectories of each model."""
    temperature: float = 300.0
    """Of the start of the dynamics, K."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")


class Job(NamedTuple):
    """One fine-tuning of the comparison."""

    start: Start
    labels: int
    seed: int

    @property
    def directory(self) -> str:
        """Where it runs, below the working directory."""
        return f"finetune-{self.start}-{self.labels}-seed{self.seed}"


def quickstart(config: QuickstartConfig, out: Path) -> Path:
    """Run everything and return the path of the report.

    Args:
        config: sizes.
        out: directory to work in; what is there already is not done again.
    """
    out.mkdir(parents=True, exist_ok=True)
    stages: list[Stage] = []
    with _timed("label molecules for pre-training", stages):
        molecules = _label_molecules(config, out / "molecules")
    with _timed("label the molecule of the fine-tuning", stages):
        frames = _label_frames(config, out / "frames")
    with _timed("pre-train", stages):
        pretrained = _pretrain(config, out)
    jobs = [Job(s, n, seed) for seed in range(config.seeds) for n in config.label_counts for s in STARTS]
    with _timed("fine-tune", stages):
        tested = _finetune_all(config, jobs, frames, pretrained, out)
    with _timed("simulate", stages):
        dynamics = [_dynamics(config, start, frames, out) for start in STARTS]
    rows = [
        ResultRow(labels=j.labels, start=j.start, seed=j.seed, force_mae=e.force_mae, energy_mae=e.energy_mae)
        for j, e in tested.items()
    ]
    shown = {start: tested[Job(start, max(config.label_counts), 0)] for start in STARTS}
    report = write_quickstart_report(
        out,
        QuickstartResults(
            molecule=f"{config.smiles}",
            pretraining=f"{len(molecules):,} conformations of {config.n_molecules} other molecules",
            dynamics_protocol=(
                f"{config.replicas} trajectories of {config.dynamics_steps * 0.5 / 1000:g} ps at constant energy "
                f"(velocity Verlet, 0.5 fs), started at {config.temperature:g} K"
            ),
            data=[_summary("molecules for pre-training", molecules), _summary("frames for fine-tuning", frames)],
            curves=_curves(jobs, config, out),
            rows=rows,
            parities=[ModelParity(start=s, energies=e.energy_parity, forces=e.force_parity) for s, e in shown.items()],
            dynamics=dynamics,
            stages=stages,
            provenance=_provenance(molecules),
        ),
    )
    _show(rows, dynamics, stages)
    say(f"report: {report}")
    return report


@contextmanager
def _timed(name: str, stages: list[Stage]) -> Iterator[None]:
    start = time.monotonic()
    yield
    stages.append(Stage(name=name, seconds=time.monotonic() - start))


def _label_molecules(config: QuickstartConfig, path: Path) -> MoleculeStore:
    """Minima and thermal frames of many molecules, without the one of the fine-tuning."""
    if path.exists() and (path / "manifest.json").exists():
        try:
            return MoleculeStore.open(path)
        except ValueError:
            say(f"{path} is unfinished: going on")
    wanted = GenerateConfig(n_molecules=config.n_molecules, exclude=(config.smiles,), processes=config.processes)
    with progress("labelling molecules") as show:
        return generate(wanted, path, lambda p: show(p.done, p.total, f"{p.frames} frames, {p.failed} failed"))


def _label_frames(config: QuickstartConfig, path: Path) -> MoleculeStore:
    """Frames of the molecule of the fine-tuning from two trajectories: one to learn from, one to test on."""
    if (path / "manifest.json").exists():
        return MoleculeStore.open(path)
    per_chain = max(max(config.label_counts) + config.n_validation, config.n_test)
    wanted = TrajectoryConfig(smiles=config.smiles, n_frames=2 * per_chain, n_chains=2, processes=config.processes)
    with console.status(f"labelling {2 * per_chain} frames of {config.smiles}"):
        frames = trajectory(wanted)
    writer = StoreWriter.open(
        path, level_of_theory="GFN2-xTB", source=f"Langevin dynamics of {config.smiles}", settings={}
    )
    writer.write_shard(frames)
    return writer.finish()


def _pretrain(config: QuickstartConfig, out: Path) -> Path:
    run = out / "pretrain"
    if (run / LAST_FILE).exists():
        return run / MODEL_FILE
    recipe = PretrainRecipe(
        data=out / "molecules",
        model=EquivariantTransformerConfig(),
        training=TrainingConfig(
            n_steps=config.pretrain_steps,
            batch_size=32,
            validate_every=max(1, config.pretrain_steps // 5),
            save_every=100,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99),
        ),
    )
    with progress("pre-training") as show:
        return pretrain(recipe, run, resume=(run / RECIPE_FILE).exists(), on_progress=_watch(show)).model


def _finetune_all(
    config: QuickstartConfig, jobs: list[Job], frames: MoleculeStore, pretrained: Path, out: Path
) -> dict[Job, Errors]:
    """Fine-tune and test every model; both starts see the same labels in the same order, for as many steps."""
    tested: dict[Job, Errors] = {}
    for job in jobs:
        split = _split(config, frames, job.labels, job.seed)
        path = out / f"split-{job.labels}-seed{job.seed}.json"
        split.save(path)
        run = out / job.directory
        if not (run / LAST_FILE).exists():
            recipe = FinetuneRecipe(
                data=out / "frames",
                split=path,
                start=str(pretrained) if job.start == "pre-trained" else SCRATCH,
                model=EquivariantTransformerConfig(),
                training=TrainingConfig(
                    n_steps=config.finetune_steps,
                    batch_size=8,
                    seed=job.seed,
                    validate_every=max(1, config.finetune_steps // 5),
                    save_every=100,
                    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=30, ema_decay=0.98),
                ),
            )
            with progress(f"{job.start}, {job.labels} labels, seed {job.seed}") as show:
                finetune(recipe, run, resume=(run / RECIPE_FILE).exists(), on_progress=_watch(show))
        model = load_model(run / MODEL_FILE).model
        tested[job] = errors_of(model, batches(frames, split.test), torch.device("cpu"))
    return tested


def _split(config: QuickstartConfig, frames: MoleculeStore, labels: int, seed: int) -> Split:
    """Training and validation frames from the first trajectory, test frames from the second."""
    chain = np.array([chain_of(molecule) for molecule in frames])
    pool, test = np.flatnonzero(chain == 0), np.flatnonzero(chain == 1)[: config.n_test]
    drawn = random_split(len(pool), validation=config.n_validation, test=0, seed=seed)
    return Split(train=pool[drawn.train[:labels]], validation=pool[drawn.validation], test=test)


def _watch(show: Callable[[float, float, str], None]) -> Callable[[Progress], None]:
    def watch(step: Progress) -> None:
        show(step.step, step.n_steps, f"loss {step.loss:.3g}")

    return watch


def _dynamics(config: QuickstartConfig, start: Start, frames: MoleculeStore, out: Path) -> MDSeries:
    """Simulate with the model of most labels, from a frame of the test trajectory."""
    job = Job(start, max(config.label_counts), 0)
    model = load_model(out / job.directory / MODEL_FILE).model.eval()
    first = int(_split(config, frames, job.labels, job.seed).test[0])
    molecules = [frames[first]] * config.replicas
    bonds = reference_bonds(molecules)

    def potential(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        found = model(batch, ["energy", "forces"])
        return found["energy"], found["forces"]

    with progress(f"simulating, {start}") as show:
        track = simulate(
            potential,
            collate(molecules),
            VelocityVerlet(dt=0.5),
            n_steps=config.dynamics_steps,
            record_every=5,
            temperature=config.temperature,
            generator=torch.Generator().manual_seed(0),
            on_progress=lambda done, total: show(done, total),
        )
    return MDSeries(
        start=start,
        n_atoms=molecules[0].n_atoms,
        times=track.times.numpy(),
        total_energy=track.total_energy.numpy(),
        temperature=track.temperature.numpy(),
        bond_deviation=bond_deviation(track, bonds).numpy(),
        stability_time=stability_time(track, bonds).numpy(),
        energy_drift=energy_drift(track).numpy(),
        duration=track.duration,
        bond_tolerance=BOND_TOLERANCE,
    )


def _summary(name: str, store: MoleculeStore) -> DataSummary:
    batch = store.gather(np.arange(len(store)))
    forces = batch.labels["forces"].double()
    sizes = store.atoms_per_molecule
    compounds, place = np.unique(np.array(store.smiles), return_inverse=True)
    manifest = store.manifest
    return DataSummary(
        name=name,
        atoms_per_molecule=sizes,
        atomic_numbers=batch.atomic_numbers.numpy(),
        force_norms=torch.linalg.vector_norm(forces, dim=-1).numpy(),
        energies=energies_above_lowest(batch.labels["energy"].numpy(), sizes, place),
        facts={
            "conformations": f"{len(store):,} of {len(compounds):,} compounds",
            "of these minima": f"{int(batch.flags['is_equilibrium'].sum()):,}",
            "level of theory": manifest.level_of_theory,
            "left out": ", ".join(f"{n} {reason}" for reason, n in manifest.skipped.items()) or "nothing",
            "units": "eV, Å, eV/Å",
        },
    )


def _curves(jobs: list[Job], config: QuickstartConfig, out: Path) -> list[TrainingCurve]:
    def curve(name: str, start: Start | None, run: Path) -> TrainingCurve:
        records = [
            {"step": r["step"], ("loss" if r["kind"] == "train" else "validation_loss"): r["loss"]}
            | ({"force_mae": r["force_mae"]} if r["kind"] == "validation" else {})
            for r in read_metrics(run / METRICS_FILE)
        ]
        return TrainingCurve.from_records(name, start, records, loss_key="loss", force_mae_key="force_mae")

    first = [j for j in jobs if j.seed == 0]
    return [curve("pre-training", None, out / "pretrain")] + [
        curve(f"{j.labels} labels, {j.start}", j.start, out / j.directory) for j in first
    ]


def _provenance(molecules: MoleculeStore) -> Provenance:
    packages = ("basinet", "torch", "numpy", "ase", "rdkit", "tblite")
    return Provenance(
        command=" ".join(sys.argv),
        seed=0,
        level_of_theory=molecules.manifest.level_of_theory,
        device=f"CPU, {torch.get_num_threads()} threads",
        versions={name: version(name) for name in packages},
    )


def _show(rows: list[ResultRow], dynamics: list[MDSeries], stages: list[Stage]) -> None:
    grid = Table(title="Errors on frames never trained on, of a trajectory of its own", title_justify="left")
    for heading in ("labels", "start", "force MAE, meV/Å", "energy MAE, meV"):
        grid.add_column(heading, justify="left" if heading == "start" else "right")
    for labels in sorted({r.labels for r in rows}):
        for start in STARTS:
            chosen = [r for r in rows if r.labels == labels and r.start == start]
            grid.add_row(
                str(labels), start, _spread([r.force_mae for r in chosen]), _spread([r.energy_mae for r in chosen])
            )
    console.print(grid)
    for series in dynamics:
        drift = float(np.nanmedian(np.abs(series.energy_drift)))
        say(
            f"dynamics, {series.start}: {series.n_stable} of {series.n_replicas} trajectories kept their bonds for "
            f"{series.duration / 1000:g} ps; energy drift {to_unit(drift, 'meV'):.2g} meV/atom/ps"
        )
    say("time: " + ", ".join(f"{s.name} {s.seconds:.0f} s" for s in stages))


def _spread(values: list[float]) -> str:
    found = over_seeds([to_unit(value, "meV") for value in values])
    return f"{found.mean:.1f}" if found.std is None else f"{found.mean:.1f} ± {found.std:.1f}"
