"""Compare fine-tunings from several starts, with few and many labels."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from pydantic import BeforeValidator, Field

from basinet.backbones.build import BackboneConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.build import BuildRecipe, build
from basinet.commands.recipe import (
    SCRATCH,
    FinetuneRecipe,
    LaunchConfig,
    TrainableRecipe,
    UnitsConfig,
    read_yaml,
    save_recipe,
)
from basinet.commands.run_directory import RESULTS_FILE
from basinet.commands.side_by_side import Watch, run_side_by_side
from basinet.commands.train.start import atoms_alone
from basinet.config import Count, PathText, dump_settings, settings
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.data.workers import available_cores
from basinet.evaluation.learning_curves import LearningCurves
from basinet.files import write_text
from basinet.models.checkpoint import read_backbone
from basinet.objectives.methods import EnergyForcesConfig, ObjectiveConfig, property_settings
from basinet.training.fit import TrainingConfig
from basinet.training.optim import OptimizerConfig
from basinet.units import REPORTED, property_factor

RECIPE_FILE = "compare.yaml"
COMPARISON_FILE = "compare.json"
STORE = "data"
RUNS = "runs"
MOST_TESTED = 2000
"""Default limit of the test set, conformations."""
MOST_VALIDATED = 100
"""Default limit of the validation set."""


def _comma(value: Any) -> Any:
    """Read ``a,b`` as typed on a command line."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int) else value


def _numbers(value: Any) -> Any:
    return [int(v) if isinstance(v, str) and v.isdecimal() else v for v in _comma(value)]


@settings
class CompareRecipe:
    """Fine-tune from several starts with several numbers of labels, and test all on the same molecules."""

    data: Path
    """A file of molecules or a store: labels to learn from and to test on."""
    start: Annotated[tuple[PathText, ...], BeforeValidator(_comma), Field(alias="from")]
    """Two or more of scratch and model files, as a list or a,b; the others are compared with the first."""
    sizes: Annotated[tuple[int, ...], BeforeValidator(_numbers)] = (50, 100, 200)
    """Numbers of labels to train on, as a list or a,b."""
    seeds: Count = 3
    """Repetitions with other labels and initial weights."""
    n_validation: Count | None = None
    """Conformations for validation; null: a tenth, at most 100."""
    n_test: Count | None = None
    """Conformations for the test, the same for all runs; null: what is left, at most 2,000."""
    units: UnitsConfig = UnitsConfig()
    """Units and keys of a file."""
    model: BackboneConfig | None = None
    """The network from scratch; null: that of the first model file."""
    objective: ObjectiveConfig = EnergyForcesConfig()
    """Objective."""
    training: TrainingConfig = TrainingConfig(
        n_steps=2000,
        batch_size=8,
        validate_every=200,
        save_every=200,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, ema_decay=0.99),
    )
    """Length, batches, optimiser, the same for all starts and numbers of labels."""
    processes: Count | None = None
    """Runs at a time, one core each; null: one for each core."""

    def __post_init__(self) -> None:
        """Check starts and sizes."""
        if len(set(self.start)) != len(self.start) or len(self.start) < 2:
            raise ValueError(f"from needs two or more different starts, such as from=scratch,MODEL; got {self.start}")
        if not self.sizes or min(self.sizes) < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must be rising numbers of labels, got {list(self.sizes)}")


class Comparison(NamedTuple):
    """Result of a comparison."""

    curves: LearningCurves
    n_test: int
    n_validation: int


def compare(
    recipe: CompareRecipe, out: Path, *, resume: bool = False, watch: Watch, say: Callable[[str], None]
) -> Comparison:
    """Run every fine-tuning, one core each, and read their errors; an interrupted comparison can be resumed.

    Args:
        recipe: options of the comparison.
        out: directory to make, or to resume; holds the runs, and the data as a store.
        resume: continue the comparison in ``out``.
        watch: called with steps done, of how many, and the names of the current runs.
        say: called with lines about what is being done.

    Raises:
        ValueError: too few molecules, a model file that does not fit the data, or ``out`` is of another comparison.
    """
    backbone = recipe.model or _backbone_of(recipe.start)
    _begin(out, recipe, resume)
    store = _store(recipe, out)
    n_validation, n_test = _part_sizes(recipe, store)
    runs: dict[Path, TrainableRecipe] = {}
    for seed in range(recipe.seeds):
        for size, split_file in _splits(recipe, store, seed, n_validation, n_test, out):
            for start, name in zip(recipe.start, names_of(recipe.start), strict=True):
                directory = out / RUNS / f"{name}-{size}-seed{seed}"
                runs[directory] = _run_recipe(recipe, start, backbone, out, split_file, seed)
    processes = recipe.processes or available_cores()
    say(
        f"{len(runs)} runs of {recipe.training.n_steps} steps, {min(processes, len(runs))} at a time; "
        f"{n_validation} conformations validate and {n_test} test"
    )
    run_side_by_side(runs, processes, watch)
    found = Comparison(_curves(recipe, out), n_test, n_validation)
    write_text(out / COMPARISON_FILE, json.dumps(_record(found), indent=2) + "\n")
    return found


def names_of(starts: Sequence[str]) -> list[str]:
    """Return a short name of each start: of ``a/model.safetensors`` it is ``a``."""
    short = [
        SCRATCH if s == SCRATCH else (Path(s).resolve().parent.name if Path(s).stem == "model" else Path(s).stem)
        for s in starts
    ]
    return [name if short.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(short, start=1)]


def _backbone_of(starts: Sequence[str]) -> BackboneConfig:
    """Return the network of the first model file, so that scratch differs in its weights only."""
    for start in starts:
        if start != SCRATCH:
            return read_backbone(Path(start))
    return EquivariantTransformerConfig()


def _begin(out: Path, recipe: CompareRecipe, resume: bool) -> None:
    path = out / RECIPE_FILE
    if not path.exists():
        if resume:
            raise ValueError(f"{out} holds no comparison to resume; leave --resume out to start one")
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} exists and is not a comparison; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, path)
        return
    if not resume:
        raise ValueError(f"{out} holds a comparison already; resume it (--resume) or choose another --out")
    old, new = read_yaml(path), dump_settings(recipe)
    changed = [key for key in sorted(old.keys() | new.keys()) if key != "processes" and old.get(key) != new.get(key)]
    if changed:
        raise ValueError(f"{out} was started with another {', '.join(changed)}; restore it, or choose another --out")


def _store(recipe: CompareRecipe, out: Path) -> MoleculeStore:
    """Return the data as a store, read once for all runs."""
    if recipe.data.is_dir():
        return MoleculeStore.open(recipe.data)
    target = property_settings(recipe.objective)
    units = dataclasses.replace(recipe.units, bonds="auto")
    if target is not None and units.property_key is None and units.property_unit is not None:
        units = dataclasses.replace(units, property_key=target.label)
    try:
        return build(BuildRecipe(data=(recipe.data,), units=units), out / STORE).store
    except FileExistsError:
        return MoleculeStore.open(out / STORE)


def _part_sizes(recipe: CompareRecipe, store: MoleculeStore) -> tuple[int, int]:
    n = len(_usable(recipe, store))
    n_validation = recipe.n_validation or max(1, min(MOST_VALIDATED, n // 10))
    left = n - n_validation - max(recipe.sizes)
    n_test = recipe.n_test or min(MOST_TESTED, left)
    if n_test < 1 or n_test > left:
        raise ValueError(
            f"{recipe.data} has {n} molecules, too few to train on {max(recipe.sizes)}, validate on {n_validation} and "
            f"test on {recipe.n_test or 'at least 1'}; choose smaller sizes, n_validation or n_test"
        )
    return n_validation, n_test


def _usable(recipe: CompareRecipe, store: MoleculeStore) -> Int64[np.ndarray, " n"]:
    every = np.arange(len(store))
    return every if property_settings(recipe.objective) is not None else np.setdiff1d(every, atoms_alone(store))


def _splits(
    recipe: CompareRecipe, store: MoleculeStore, seed: int, n_validation: int, n_test: int, out: Path
) -> list[tuple[int, Path]]:
    """Save the splits of a seed: one test set for all, and labels that are part of those of every larger size."""
    order = np.random.default_rng(0).permutation(_usable(recipe, store))
    test, rest = order[:n_test], order[n_test:]
    pool = np.random.default_rng([1, seed]).permutation(rest)
    validation, train = pool[:n_validation], pool[n_validation:]
    files: list[tuple[int, Path]] = []
    for size in recipe.sizes:
        path = out / f"split-{size}-seed{seed}.json"
        Split(train=train[:size], validation=validation, test=test).save(path)
        files.append((size, path))
    return files


def _run_recipe(
    recipe: CompareRecipe, start: str, backbone: BackboneConfig, out: Path, split_file: Path, seed: int
) -> FinetuneRecipe:
    in_store = recipe.data if recipe.data.is_dir() else out / STORE
    return FinetuneRecipe(
        data=in_store,
        units=UnitsConfig(bonds=recipe.units.bonds),
        start=start,
        split=split_file,
        model=backbone,
        objective=recipe.objective,
        training=dataclasses.replace(recipe.training, seed=recipe.training.seed + seed),
        launch=LaunchConfig(accelerator="cpu", threads=1),
    )


def _curves(recipe: CompareRecipe, out: Path) -> LearningCurves:
    """Read the errors of the runs."""
    names = names_of(recipe.start)
    records = [
        [[_results(out / RUNS / f"{name}-{size}-seed{seed}") for seed in range(recipe.seeds)] for size in recipe.sizes]
        for name in names
    ]
    first = records[0][0][0]
    key, quantity, unit, factor = _measure(first)
    values = np.array([[[r[key] for r in seeds] for seeds in sizes] for sizes in records], dtype=np.float64)
    return LearningCurves(starts=names, sizes=recipe.sizes, errors=values * factor, quantity=quantity, unit=unit)


def _measure(record: Mapping[str, Any]) -> tuple[str, str, str, float]:
    """Return the error to compare: its key, quantity, unit and the factor to the unit."""
    if "property" in record:
        reported = REPORTED[record["unit"]]
        return "mae", f"MAE of {record['property']}", reported, 1 / property_factor(reported)
    if record["force_mae"] is not None:
        return "force_mae", "force MAE", "meV/Å", 1000.0
    return "energy_mae", "energy MAE", "meV", 1000.0


def _results(directory: Path) -> dict[str, Any]:
    return json.loads((directory / RESULTS_FILE).read_text())


def _record(found: Comparison) -> dict[str, Any]:
    curves = found.curves
    return {
        "quantity": curves.quantity,
        "unit": curves.unit,
        "starts": list(curves.starts),
        "sizes": list(curves.sizes),
        "errors": curves.errors.tolist(),
        "axes": ["start", "size", "seed"],
        "n_test": found.n_test,
        "n_validation": found.n_validation,
    }
