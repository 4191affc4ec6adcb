"""Run the stages of the quickstart; a stage whose files exist is skipped, or resumed."""

from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from basinet.commands.answer.evaluate import errors_of
from basinet.commands.recipe import SCRATCH, FinetuneRecipe, LaunchConfig, PretrainRecipe
from basinet.commands.run_directory import MODEL_FILE
from basinet.commands.side_by_side import run_side_by_side
from basinet.commands.statistics import batches
from basinet.data.generation.generate import GenerateConfig, generate
from basinet.data.generation.trajectory import TrajectoryConfig, chain_of, trajectory
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.stream.splits import Split, random_split
from basinet.data.workers import available_cores, map_in_order
from basinet.evaluation.metrics import Errors
from basinet.md.bonds import BOND_TOLERANCE, reference_bonds
from basinet.md.integrators import VelocityVerlet
from basinet.md.observables import bond_deviation, energy_drift, stability_time
from basinet.md.simulate import simulate
from basinet.models.checkpoint import load_model
from basinet.quickstart.config import Job, QuickstartConfig
from basinet.quickstart.results import STARTS, MDSeries
from basinet.structures.batch import Batch, collate
from basinet.terminal import progress, say
from basinet.training.fit import TrainingConfig
from basinet.training.optim import OptimizerConfig

PRETRAINED = "pretrain"
"""Directory of the pre-training."""
TIME_STEP = 0.5
"""Time step of the dynamics, fs: less than a tenth of the period of the fastest vibration."""


def label_molecules(config: QuickstartConfig, out: Path) -> MoleculeStore:
    """Make minima and thermal frames of many molecules, without the molecule of the fine-tuning."""
    wanted = GenerateConfig(n_molecules=config.n_molecules, exclude=(config.smiles,), processes=config.processes)
    with progress("labelling", "molecules") as show:
        try:
            return generate(wanted, out, lambda p: show(p.done, p.total, f"{p.frames} frames  {p.failed} failed"))
        except FileExistsError:
            say(f"{out} is there already")
            return MoleculeStore.open(out)


def label_frames(config: QuickstartConfig, out: Path, level_of_theory: str) -> MoleculeStore:
    """Label frames of the molecule of the fine-tuning from two trajectories: one to learn from, one to test on."""
    per_chain = max(config.most_labels + config.n_validation, config.n_test)
    wanted = TrajectoryConfig(smiles=config.smiles, n_frames=2 * per_chain, n_chains=2, processes=config.processes)
    try:
        writer = StoreWriter.open(
            out, level_of_theory=level_of_theory, source=f"dynamics of {config.smiles}", settings={"frames": per_chain}
        )
    except FileExistsError:
        say(f"{out} is there already")
        return MoleculeStore.open(out)
    with progress(f"labelling {2 * per_chain} frames of {config.name}"):
        frames = trajectory(wanted)
    writer.write_shard(frames)
    return writer.finish()


def train_all(config: QuickstartConfig, out: Path) -> dict[Job, Errors]:
    """Pre-train, and fine-tune and test every model, each on one core.

    Models from scratch are trained beside the pre-training. Both starts see the same labels for the same number of
    steps.
    """
    frames = MoleculeStore.open(out / "frames")
    jobs = jobs_of(config)
    for job in jobs:
        split_frames(config, frames, job).save(job.split_file(out))
    fine = {job: (job.directory(out), _finetune_recipe(config, job, out)) for job in jobs}
    first = {out / PRETRAINED: _pretrain_recipe(config, out)} | dict(fine[j] for j in jobs if j.start == SCRATCH)
    later = dict(fine[job] for job in jobs if job.start != SCRATCH)
    for title, runs in (("pre-training, and training from scratch", first), ("fine-tuning", later)):
        with progress(title, "steps") as show:
            run_side_by_side(runs, _processes(config), show)
    test = split_frames(config, frames, jobs[0]).test
    return {job: _test(job.directory(out) / MODEL_FILE, frames, test) for job in jobs}


def jobs_of(config: QuickstartConfig) -> list[Job]:
    """Return every fine-tuning: both starts, all label counts, all seeds."""
    return [Job(start, n, seed) for seed in range(config.seeds) for n in config.label_counts for start in STARTS]


def _test(model_file: Path, frames: MoleculeStore, test: np.ndarray) -> Errors:
    return errors_of(load_model(model_file).model, batches(frames, test))


def _pretrain_recipe(config: QuickstartConfig, out: Path) -> PretrainRecipe:
    """Pre-train on all molecules with the default objective."""
    return PretrainRecipe(
        data=out / "molecules",
        model=config.model,
        training=TrainingConfig(
            n_steps=config.pretrain_steps,
            batch_size=8,
            validate_every=max(1, config.pretrain_steps // 5),
            save_every=100,
            optimizer=OptimizerConfig(learning_rate=config.learning_rate, warmup_steps=50, ema_decay=0.99),
        ),
        launch=LaunchConfig(accelerator="cpu", threads=1),
    )


def split_frames(config: QuickstartConfig, frames: MoleculeStore, job: Job) -> Split:
    """Return training and validation frames of the first trajectory, test frames of the second."""
    chain = np.array([chain_of(molecule) for molecule in frames])
    pool, test = np.flatnonzero(chain == 0), np.flatnonzero(chain == 1)[: config.n_test]
    drawn = random_split(len(pool), validation=config.n_validation, test=0, seed=job.seed)
    return Split(train=pool[drawn.train[: job.labels]], validation=pool[drawn.validation], test=test)


def _finetune_recipe(config: QuickstartConfig, job: Job, out: Path) -> FinetuneRecipe:
    """Fine-tune one model."""
    return FinetuneRecipe(
        data=out / "frames",
        split=job.split_file(out),
        start=SCRATCH if job.start == SCRATCH else str(out / PRETRAINED / MODEL_FILE),
        model=config.model,
        training=TrainingConfig(
            n_steps=config.finetune_steps,
            batch_size=8,
            seed=job.seed,
            validate_every=max(1, config.finetune_steps // 5),
            save_every=100,
            optimizer=OptimizerConfig(learning_rate=config.learning_rate, warmup_steps=30, ema_decay=0.98),
        ),
        launch=LaunchConfig(accelerator="cpu", threads=1),
    )


def simulate_all(config: QuickstartConfig, out: Path) -> list[MDSeries]:
    """Simulate with both models of most labels, each on one core."""
    tasks = [(config, Job(start, config.most_labels, 0), out) for start in STARTS]
    with (
        progress(f"simulating {config.dynamics_steps} time steps with both models"),
        closing(map_in_order(_simulate, tasks, min(2, _processes(config)))) as results,
    ):
        return list(results)


def _simulate(task: tuple[QuickstartConfig, Job, Path]) -> MDSeries:
    """Run replicas at constant energy from a frame of the test trajectory, in a worker."""
    config, job, out = task
    torch.set_num_threads(1)
    model = load_model(job.directory(out) / MODEL_FILE).model.eval()
    first = int(Split.load(job.split_file(out)).test[0])
    molecules = [MoleculeStore.open(out / "frames")[first]] * config.replicas
    bonds = reference_bonds(molecules)

    def potential(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        found = model(batch, ["energy", "forces"])
        return found["energy"], found["forces"]

    track = simulate(
        potential,
        collate(molecules),
        VelocityVerlet(dt=TIME_STEP),
        n_steps=config.dynamics_steps,
        record_every=5,
        temperature=config.temperature,
        seed=job.seed,
    )
    return MDSeries(
        start=job.start,
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


def _processes(config: QuickstartConfig) -> int:
    return config.processes or available_cores()
