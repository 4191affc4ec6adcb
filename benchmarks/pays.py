"""Does pre-training pay, and which? Every method, the same network, the same data, then rMD17 with few labels.

Makes one store to pre-train on, pre-trains one model with each method, fine-tunes each (and fresh weights) on the
official split 01 of rMD17 with the same steps and the same order of the data, and prints the table. What is there
already is not made again. About two hours of one core for one seed:

    basinet data generate gfn2 'exclude=["CC(=O)Oc1ccccc1C(=O)O","CCO","O=C(O)c1ccccc1O"]'
    python benchmarks/pays.py REFERENCE gfn2 pays --processes 2

REFERENCE holds ``conformers/drug_like_conformers_dft.npz`` (minima with bonds and no forces) and
``rmd17/rmd17_<molecule>.npz`` (z, R, E, F in kcal/mol and Å, rows of the official splits).
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from basinet.data.filtering import without_listed

from basinet.backbones.build import BackboneConfig
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.recipe import SCRATCH, FinetuneRecipe, LaunchConfig, PretrainRecipe, UnitsConfig
from basinet.commands.run_directory import LAST_FILE, MODEL_FILE, RECIPE_FILE, RESULTS_FILE
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.stream.splits import Split
from basinet.data.workers import map_in_order
from basinet.evaluation.metrics import to_unit
from basinet.objectives.methods import (
    AnyObjectiveConfig,
    CoordinateDenoisingConfig,
    EMGPConfig,
    EnergyForcesConfig,
    EtOreoConfig,
    ForceAndDenoiseConfig,
    FradConfig,
    UnifiedConfig,
)
from basinet.structures import Molecule
from basinet.training.fit import TrainingConfig
from basinet.training.optim import OptimizerConfig

ET = EquivariantTransformerConfig(n_features=48, n_layers=3)
EGNN = EGNNConfig(n_features=64, n_layers=4, graph=RadiusGraph(cutoff=5.0))

RMD17 = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ethanol": "CCO",
    "salicylic": "O=C(O)c1ccccc1O",
}
"""The molecules of the table, which no pre-training sees."""
CELLS = (
    ("ethanol", 50),
    ("ethanol", 200),
    ("salicylic", 50),
    ("salicylic", 200),
    ("aspirin", 50),
    ("aspirin", 200),
    ("aspirin", 950),
)
"""Molecule and number of labels."""
MOST_ATOMS = 40
"""Of a conformer that is pre-trained on: the larger ones cost most."""
N_VALIDATION = 50
"""Last rows of the official training set; they choose the best step and are never trained on."""
N_TEST = 500
"""First rows of the official test set."""
BATCH = 8
FINETUNE_STEPS = 600
LEARNING_RATE = 5e-3
"""Largest one, everywhere."""
COST_FILE = "cost.json"


class Method(NamedTuple):
    """One way to begin a fine-tuning."""

    name: str
    model: BackboneConfig
    objective: AnyObjectiveConfig | None = None
    """``None``: fresh weights."""
    steps: int = 0
    """Of pre-training, in batches of 8: each method gets about the same time of one core."""
    data: str = "molecules"
    """Store it is pre-trained on: ``molecules``; ``minima`` for a method that would draw the others too; ``one_level``
    without the DFT minima, whose forces vanish at another level than that of the labels."""


METHODS = (
    Method("scratch", ET),
    Method("coordinate-denoising", ET, CoordinateDenoisingConfig(), 10_000),
    Method("frad", ET, FradConfig(), 10_000),
    Method("emgp-et", ET, EMGPConfig(largest_sigma=1.0), 2400, "minima"),
    Method("et-oreo", ET, EtOreoConfig(), 2400),
    Method("et-oreo-one-level", ET, EtOreoConfig(), 4000, "one_level"),
    Method("force-and-denoise", ET, ForceAndDenoiseConfig(), 4000),
    Method("unified", ET, UnifiedConfig(), 3000),
    Method("scratch-egnn", EGNN),
    Method("emgp-egnn", EGNN, EMGPConfig(largest_sigma=1.0), 3500, "minima"),
)


class Job(NamedTuple):
    """One fine-tuning."""

    method: Method
    molecule: str
    labels: int
    seed: int
    steps: int

    def directory(self, out: Path) -> Path:
        """Return where it runs."""
        return out / "finetune" / f"{self.method.name}-{self.molecule}-{self.labels}-{self.steps}-seed{self.seed}"


def main() -> None:
    """Do what is not done yet, and print the tables."""
    given = _arguments()
    chosen = [m for m in METHODS if m.name in given.methods]
    make_stores(given.reference, given.labelled, given.out)
    jobs = [
        Job(method, molecule, labels, seed, given.steps)
        for seed in range(given.seeds)
        for molecule, labels in CELLS
        if molecule in given.molecules and labels in given.labels
        for method in chosen
    ]
    for stage in (
        [partial(run_pretraining, method, given.out) for method in chosen if method.objective is not None],
        [partial(run_finetuning, job, given.reference, given.out) for job in jobs],
    ):
        for done in map_in_order(_call, stage, given.processes):
            print(done, flush=True)
    print("\n".join(cost_table(chosen, given.out)))
    print("\n".join(error_table(chosen, jobs, given.out)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path, help="directory of the reference data")
    parser.add_argument("labelled", type=Path, help="store made by basinet data generate")
    parser.add_argument("out", type=Path, help="directory of stores, runs and results")
    parser.add_argument("--methods", nargs="+", default=[m.name for m in METHODS], choices=[m.name for m in METHODS])
    parser.add_argument("--molecules", nargs="+", default=list(RMD17), choices=list(RMD17))
    parser.add_argument("--labels", nargs="+", type=int, default=[50, 200, 950], choices=[50, 200, 950])
    parser.add_argument("--steps", type=int, default=FINETUNE_STEPS, help="of each fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


def _call(task: partial[str]) -> str:
    return task()


def make_stores(reference: Path, labelled: Path, out: Path) -> None:
    """Write a store of DFT minima without labels and of GFN2-xTB minima and frames with forces, and parts of it.

    The first names GFN2-xTB as its level of theory, which is that of all its labels.
    """
    own = MoleculeStore.open(labelled)
    minima = list(dft_minima(reference / "conformers" / "drug_like_conformers_dft.npz"))
    molecules = minima + list(own)
    kept = without_listed([m.smiles for m in molecules], RMD17.values())
    print(f"to pre-train on: {kept}")
    chosen = [molecules[i] for i in kept.kept]
    parts = {
        "molecules": chosen,
        "minima": [m for m in chosen if m.is_equilibrium],
        "one_level": [m for m in chosen if "forces" in m.labels],
    }
    for name, part in parts.items():
        settings = {"most_atoms": MOST_ATOMS, "labelled": own.fingerprint}
        level = own.manifest.level_of_theory
        try:
            writer = StoreWriter.open(out / name, level_of_theory=level, source="benchmark", settings=settings)
        except FileExistsError:
            continue
        print(f"{name}: {len(part)} conformations")
        writer.write_shard(part)
        writer.finish()


def dft_minima(path: Path) -> Iterator[Molecule]:
    """Yield the neutral conformers that are not too large, with their bonds and without their energies."""
    with np.load(path, allow_pickle=False) as arrays:
        a = dict(arrays)
    atoms = np.r_[0, np.cumsum(a["n_atoms"].astype(int))]
    bonds = np.r_[0, np.cumsum(a["n_bonds"].astype(int))]
    for i in np.flatnonzero((a["charge"] == 0) & (a["n_atoms"] <= MOST_ATOMS)):
        of_atoms, of_bonds = slice(atoms[i], atoms[i + 1]), slice(bonds[i], bonds[i + 1])
        yield Molecule(
            atomic_numbers=a["z"][of_atoms].astype(np.int64),
            positions=a["pos"][of_atoms].astype(np.float64),
            bonds=a["bonds"][of_bonds].astype(np.int64),
            bond_orders=a["bond_order"][of_bonds].astype(np.float64),
            is_equilibrium=True,
            smiles=str(a["mol_smiles"][a["mol_index"][i]]),
            name=str(a["conf_name"][i]),
        )


def run_pretraining(method: Method, out: Path) -> str:
    """Pre-train one model, or go on with it; return a line about it."""
    run = out / "pretrain" / method.name
    if (run / COST_FILE).exists():
        return f"{method.name}: pre-trained"
    assert method.objective is not None
    recipe = PretrainRecipe(
        data=out / method.data,
        model=method.model,
        objective=method.objective,
        training=TrainingConfig(
            n_steps=method.steps,
            batch_size=BATCH,
            validate_every=max(1, method.steps // 5),
            save_every=200,
            optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, warmup_steps=100, ema_decay=0.99),
        ),
        launch=LaunchConfig(accelerator="cpu", threads=1),
    )
    resume = (run / RECIPE_FILE).exists()
    before = time.process_time()
    found = pretrain(recipe, run, resume=resume)
    seconds = None if resume else time.process_time() - before
    (run / COST_FILE).write_text(json.dumps({"cpu_seconds": seconds, "steps": method.steps, "loss": found.fit.best}))
    return f"{method.name}: pre-trained, loss {found.fit.best:.4f}"


def run_finetuning(job: Job, reference: Path, out: Path) -> str:
    """Fine-tune one model and test it; return a line about it."""
    run = job.directory(out)
    data = reference / "rmd17" / f"rmd17_{job.molecule}.npz"
    if not (run / COST_FILE).exists():
        split = out / "splits" / f"{job.molecule}-{job.labels}-seed{job.seed}.json"
        split.parent.mkdir(parents=True, exist_ok=True)
        official_split(data, job.labels, job.seed).save(split)
        start = SCRATCH if job.method.objective is None else str(out / "pretrain" / job.method.name / MODEL_FILE)
        recipe = FinetuneRecipe(
            data=data,
            units=UnitsConfig(energy_unit="kcal/mol", level_of_theory="PBE/def2-SVP"),
            split=split,
            start=start,
            model=job.method.model,
            objective=EnergyForcesConfig(),
            training=TrainingConfig(
                n_steps=job.steps,
                batch_size=BATCH,
                seed=job.seed,
                validate_every=max(1, job.steps // 5),
                save_every=200,
                optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, warmup_steps=30, ema_decay=0.98),
            ),
            launch=LaunchConfig(accelerator="cpu", threads=1),
        )
        before = time.process_time()
        finetune(recipe, run, resume=(run / RECIPE_FILE).exists())
        (run / LAST_FILE).unlink()
        (run / COST_FILE).write_text(json.dumps({"cpu_seconds": time.process_time() - before}))
    force, energy = read_errors(run)
    return f"{run.name}: {to_unit(force, 'meV'):.1f} meV/Å, {to_unit(energy, 'meV'):.1f} meV"


def official_split(data: Path, labels: int, seed: int) -> Split:
    """Return rows of the official split 01: a different draw of its training rows for every seed."""
    with np.load(data, allow_pickle=False) as arrays:
        train, test = arrays["split01_train"].astype(np.int64), arrays["split01_test"].astype(np.int64)
    pool = np.random.default_rng(seed).permutation(train[:-N_VALIDATION])
    return Split(train=pool[:labels], validation=train[-N_VALIDATION:], test=test[:N_TEST])


def read_errors(run: Path) -> tuple[float, float]:
    """Return the test MAE of forces (eV/Å) and energies (eV) of a finished run."""
    record = json.loads((run / RESULTS_FILE).read_text())
    return record["force_mae"], record["energy_mae"]


def cost_table(methods: Sequence[Method], out: Path) -> Iterator[str]:
    """Yield what each pre-training took."""
    yield "\n| pre-training | steps of 8 | minutes of one core |\n|---|---|---|"
    for method in methods:
        if method.objective is not None:
            cost = json.loads((out / "pretrain" / method.name / COST_FILE).read_text())
            minutes = "interrupted" if cost["cpu_seconds"] is None else f"{cost['cpu_seconds'] / 60:.1f}"
            yield f"| {method.name} | {cost['steps']} | {minutes} |"


def error_table(methods: Sequence[Method], jobs: Sequence[Job], out: Path) -> Iterator[str]:
    """Yield mean and deviation over seeds of the errors of each method for each molecule and number of labels."""
    seeds = max(job.seed for job in jobs) + 1
    yield f"\nMAE on {N_TEST} test frames, {jobs[0].steps} steps, mean ± deviation over {seeds} seeds\n"
    yield "| molecule | labels | start | forces, meV/Å | kcal/mol/Å | energy, meV |\n|---|---|---|---|---|---|"
    for molecule, labels in dict.fromkeys((job.molecule, job.labels) for job in jobs):
        for method in methods:
            runs = [j.directory(out) for j in jobs if (j.molecule, j.labels, j.method) == (molecule, labels, method)]
            errors = np.array([read_errors(run) for run in runs])
            force, energy = (errors[:, 0], errors[:, 1])
            yield (
                f"| {molecule} | {labels} | {method.name} | {_spread(force, 'meV')} | "
                f"{to_unit(float(force.mean()), 'kcal/mol'):.3f} | {_spread(energy, 'meV')} |"
            )


def _spread(values: np.ndarray, unit: str) -> str:
    mean = to_unit(float(values.mean()), unit)
    return f"{mean:.1f} ± {to_unit(float(values.std(ddof=1)), unit):.1f}" if len(values) > 1 else f"{mean:.1f}"


if __name__ == "__main__":
    main()
