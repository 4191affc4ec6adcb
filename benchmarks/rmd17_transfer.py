"""Does pre-training on GFN2-xTB pay on DFT? Fine-tune on rMD17 with few labels, from scratch and from a model.

Prints one table. Needs the rMD17 files in the layout of one npz a molecule with the rows of the official splits:
``rmd17_<molecule>.npz`` with z, R, E, F (kcal/mol, kcal/mol/Å), ``split01_train`` and ``split01_test``.

    python benchmarks/rmd17_transfer.py DIRECTORY MODEL --molecules aspirin ethanol --labels 50 200
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from basinet.commands.recipe import SCRATCH, FinetuneRecipe, LaunchConfig, UnitsConfig
from basinet.commands.train.finetune import finetune
from basinet.data.stream.splits import Split
from basinet.evaluation.metrics import to_unit
from basinet.models.checkpoint import load_model
from basinet.training.fit import TrainingConfig
from basinet.training.optim import OptimizerConfig

N_VALIDATION = 50
"""Official training rows that choose the best step; they are not trained on."""


def main() -> None:
    """Run every combination and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--molecules", nargs="+", default=["aspirin", "ethanol", "salicylic"])
    parser.add_argument("--labels", nargs="+", type=int, default=[50, 200])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--n-test", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{'molecule':12} {'labels':>6} {'start':12} {'F, meV/Å':>9} {'F, kcal/mol/Å':>14} {'E, meV':>8}")
    for molecule in given.molecules:
        for labels in given.labels:
            for start in (SCRATCH, str(given.model)):
                force, energy = run(given, given.directory / f"rmd17_{molecule}.npz", labels, start)
                name = SCRATCH if start == SCRATCH else "pre-trained"
                print(
                    f"{molecule:12} {labels:6} {name:12} {to_unit(force, 'meV'):9.1f} "
                    f"{to_unit(force, 'kcal/mol'):14.3f} {to_unit(energy, 'meV'):8.1f}",
                    flush=True,
                )


def run(given: argparse.Namespace, data: Path, labels: int, start: str) -> tuple[float, float]:
    """Fine-tune once and return the test MAE of forces (eV/Å) and energies (eV)."""
    with tempfile.TemporaryDirectory() as directory:
        split = Path(directory) / "split.json"
        official_split(data, labels, given.n_test).save(split)
        recipe = FinetuneRecipe(
            data=data,
            units=UnitsConfig(energy_unit="kcal/mol", level_of_theory="PBE/def2-SVP"),
            split=split,
            start=start,
            model=load_model(given.model).backbone,
            training=TrainingConfig(
                n_steps=given.steps,
                batch_size=8,
                seed=given.seed,
                validate_every=max(1, given.steps // 5),
                save_every=given.steps,
                optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=30, ema_decay=0.98),
            ),
            launch=LaunchConfig(threads=1),
        )
        found = finetune(recipe, Path(directory) / "run").test
        assert found is not None
        return found.force_mae, found.energy_mae


def official_split(data: Path, labels: int, n_test: int) -> Split:
    """Return the first rows of the official split 01: to train on, then to validate on, and to test on."""
    with np.load(data, allow_pickle=False) as arrays:
        train, test = arrays["split01_train"].astype(np.int64), arrays["split01_test"].astype(np.int64)
    return Split(train=train[:labels], validation=train[-N_VALIDATION:], test=test[:n_test])


if __name__ == "__main__":
    main()
