"""Make, check and describe the directory of a run."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from basinet import __version__
from basinet.backbones.build import BackboneConfig
from basinet.commands.recipe import TrainableRecipe, load_recipe, save_recipe
from basinet.config import dump_settings
from basinet.data.store.store import MoleculeStore
from basinet.files import TEMPORARY, write_text
from basinet.models.checkpoint import save_model
from basinet.models.model import Model
from basinet.training.fit import SaveBest

RECIPE_FILE = "recipe.yaml"
MODEL_FILE = "model.safetensors"
"""Weights of the best step."""
LAST_FILE = "last.safetensors"
"""Weights of the last step; written when a run has finished."""
RESULTS_FILE = "results.json"
"""Errors on the test set."""
SPLIT_FILE = "split.json"
ENVIRONMENT_FILE = "environment.txt"
DATA_FILE = "data.json"


def check_directory(out: Path, recipe: object, resume: bool) -> None:
    """Raise a ``ValueError`` if a run cannot be started, or resumed, in a directory."""
    has_run = (out / RECIPE_FILE).exists()
    if resume:
        _require_same_recipe(out, recipe, has_run)
    elif has_run:
        raise ValueError(f"{out} holds a run already; resume it (--resume) or choose another --out")
    elif out.exists() and (not out.is_dir() or any(not p.name.startswith(TEMPORARY) for p in out.iterdir())):
        raise ValueError(f"{out} exists and is not a run of basinet; choose another --out")


def _require_same_recipe(out: Path, recipe: object, has_run: bool) -> None:
    if not has_run:
        raise ValueError(f"{out} holds no run to resume; leave --resume out to start one")
    # Read with today's defaults: a run that began before an option existed has its default.
    old, new = (_flat(dump_settings(r)) for r in (load_recipe(type(recipe), out / RECIPE_FILE, []), recipe))
    differences = [
        f"{key} was {old.get(key)}, now {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith("launch.")
    ]
    if differences:
        raise ValueError(f"{out} was started with another recipe: {'; '.join(differences)}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def write_directory(out: Path, recipe: object) -> None:
    """Make the run directory and write the recipe and the environment."""
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(f"{TEMPORARY}*"):  # of a process that was killed
        leftover.unlink()
    save_recipe(recipe, out / RECIPE_FILE)
    write_text(out / ENVIRONMENT_FILE, environment())


def environment() -> str:
    """Return versions, machine and command, one a line."""
    lines = [
        f"basinet {__version__}",
        f"command {' '.join(sys.argv)}",
        f"python {platform.python_version()}",
        f"platform {platform.platform()}",
        f"cpus {os.cpu_count()}, torch threads {torch.get_num_threads()}",
        f"cuda {torch.version.cuda or 'none'}"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
    ]
    return "\n".join([*lines, "", *_packages()]) + "\n"


@cache
def _packages() -> list[str]:
    """Return the installed packages with their versions."""
    found = (d.metadata for d in distributions())
    return sorted({f"{m['Name']}=={m['Version']}" for m in found if m["Name"]})


def write_data_record(out: Path, store: MoleculeStore, parts: Mapping[str, Any]) -> None:
    """Write hashes, counts and level of theory of the data, and ``parts``."""
    manifest = store.manifest
    record = {
        "fingerprint": store.fingerprint,
        "source": manifest.source,
        "level_of_theory": manifest.level_of_theory,
        "n_molecules": len(store),
        "labels": store.label_counts,
        "bonds": {**store.bond_counts, **manifest.settings.get("bonds", {})},
        **parts,
    }
    write_text(out / DATA_FILE, json.dumps(record, indent=2) + "\n")


def best_model_saver(out: Path, backbone: BackboneConfig, recipe: TrainableRecipe, store: MoleculeStore) -> SaveBest:
    """Return a function that saves the best model of a run."""

    def save(model: Model, step: int, metrics: Mapping[str, float]) -> None:
        save_model(model, out / MODEL_FILE, backbone, run_metadata(recipe, store, step, metrics))

    return save


def run_metadata(
    recipe: TrainableRecipe, store: MoleculeStore, step: int, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Return the metadata of a model file: recipe, step, validation metrics and data."""
    return {
        "recipe": dump_settings(recipe),
        "step": step,
        "validation": dict(metrics),
        "data": {"fingerprint": store.fingerprint, "source": store.manifest.source},
    }
