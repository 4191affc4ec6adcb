"""Fine-tune on a table of SMILES: train an ensemble, calibrate its intervals, and test it beside baselines."""

import csv
import dataclasses
import io
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from basinet.commands.assay.baselines import RegressionErrors, baseline_predictions, regression_errors
from basinet.commands.assay.data import CONFORMERS, LABEL, AssayData, prepare
from basinet.commands.assay.recipe import AssayRecipe
from basinet.commands.progress import Say, Show, hidden, silent
from basinet.commands.recipe import FinetuneRecipe
from basinet.commands.run_directory import (
    MODEL_FILE,
    RECIPE_FILE,
    RESULTS_FILE,
    SPLIT_FILE,
    check_directory,
    write_directory,
)
from basinet.commands.statistics import batches
from basinet.commands.train.finetune import finetune
from basinet.commands.train.run import OnProgress
from basinet.config import dump_settings
from basinet.files import write_text
from basinet.models.checkpoint import load_model, save_model
from basinet.models.committee import Answers, joined
from basinet.models.conformal import Calibration, calibrate, smallest_calibration
from basinet.models.heads.property import check_property_name
from basinet.models.model import Model
from basinet.objectives.properties import PropertyConfig

MEMBERS = "members"
PREDICTIONS_FILE = "predictions.csv"
DONE_FILE = "done"
"""File in the directory of a member that is trained."""
NETWORK = "basinet"
"""Name of the network in the table of errors."""


class AssayResult(NamedTuple):
    """Result of a run on a table."""

    model: Path
    """File with all members and the calibration of the intervals."""
    test: Mapping[str, RegressionErrors]
    """Errors on the test compounds: of the network, then of the baselines; empty without a test part."""
    coverage: float | None
    """Fraction of the test labels inside their intervals; ``None`` without intervals or test part."""
    lines: Sequence[str]
    """Notes about intervals and coverage."""


def finetune_assay(
    recipe: AssayRecipe,
    out: Path,
    *,
    resume: bool = False,
    on_conformers: Show | None = None,
    on_member: Callable[[int], OnProgress | None] | None = None,
    say: Say = silent,
) -> AssayResult:
    """Learn a column of a table; calibrate and test on compounds kept apart.

    Args:
        recipe: options of the run.
        out: run directory; a new one, or one to resume.
        resume: continue the run in ``out``: conformers made and members trained are kept.
        on_conformers: called with compounds done, of how many, and a note.
        on_member: called with the number of each member; what it returns is called after each of its steps.
        say: called with lines about what is being done.
    """
    check_directory(out, recipe, resume)
    label = label_of(recipe.target)
    if not resume:
        check_start(recipe)
    write_directory(out, recipe)
    data = prepare(recipe, out, label, say, on_conformers or hidden)
    data.split().save(out / SPLIT_FILE)
    members: list[Model] = []
    for number in range(recipe.ensemble):
        hook = None if on_member is None else on_member(number)
        member_say = say if number == 0 else silent
        members.append(_train(recipe, label, number, out, resume, hook, member_say))
    return _finish(recipe, label, out, data, members, say)


def label_of(target: str) -> str:
    """Return a valid name of a property for a column."""
    name = re.sub(r"\W+", "_", target).strip("_")
    name = name if name.isidentifier() and not keyword.iskeyword(name) else f"{LABEL}_{name}".rstrip("_")
    try:
        check_property_name(name)
    except ValueError:
        return f"{LABEL}_{name}"
    return name


def check_start(recipe: AssayRecipe) -> None:
    """Raise an error if the model to start from cannot be loaded."""
    if recipe.start != "scratch":
        load_model(Path(recipe.start))


def _train(
    recipe: AssayRecipe, label: str, number: int, out: Path, resume: bool, hook: OnProgress | None, say: Say
) -> Model:
    """Train a member, or resume it, and return its best step."""
    place = out / MEMBERS / str(number)
    if not (place / DONE_FILE).exists():
        place.parent.mkdir(exist_ok=True)
        started = (place / RECIPE_FILE).exists()
        finetune(_member_recipe(recipe, label, number, out), place, resume=started, on_progress=hook, say=say)
        write_text(place / DONE_FILE, "")
    return load_model(place / MODEL_FILE).model.eval()


def _member_recipe(recipe: AssayRecipe, label: str, number: int, out: Path) -> FinetuneRecipe:
    objective = PropertyConfig(
        label=label,
        readout=recipe.readout,
        baseline="none" if recipe.readout in ("dipole", "spatial_extent") else "mean",
        spread=recipe.spread,
        loss=recipe.loss,
    )
    return FinetuneRecipe(
        data=out / CONFORMERS,
        split=out / SPLIT_FILE,
        start=recipe.start,
        freeze=recipe.freeze,
        model=recipe.model,
        objective=objective,
        training=dataclasses.replace(recipe.training, seed=recipe.training.seed + number),
        launch=recipe.launch,
    )


def _finish(
    recipe: AssayRecipe, label: str, out: Path, data: AssayData, members: Sequence[Model], say: Say
) -> AssayResult:
    """Calibrate and test the members together, and write one model."""
    found = {part: _answers(members, data, part, label) for part in ("calibration", "test")}
    train_labels = data.compounds.labels[data.parts["train"]]
    calibration = None
    if len(data.parts["calibration"]):
        labels = torch.from_numpy(data.compounds.labels[data.parts["calibration"]])
        answer = found["calibration"]
        calibration = calibrate(answer.value, labels, answer.deviation, float(train_labels.std()))
    lines = [*_calibration_lines(recipe, calibration)]
    test = _test(recipe, data, found["test"])
    covered = None
    if calibration is not None and test:
        covered, line = _covered(recipe, data, found["test"], calibration)
        lines.append(line)
    _save(recipe, label, out, data, members, calibration)
    write_text(out / PREDICTIONS_FILE, _predictions(recipe, data, found["test"], calibration))
    record = {
        "target": recipe.target,
        "split": recipe.split,
        "compounds": {part: len(chosen) for part, chosen in data.parts.items()},
        "test": {name: errors.numbers() for name, errors in test.items()},
        "coverage": {"nominal": recipe.coverage, "test": covered},
    }
    write_text(out / RESULTS_FILE, json.dumps(record, indent=2) + "\n")
    for line in lines:
        say(line)
    return AssayResult(out / MODEL_FILE, test, covered, lines)


def _answers(members: Sequence[Model], data: AssayData, part: str, label: str) -> Answers:
    """Return the predictions of the members for the compounds of a part."""
    conformers = data.conformers_of(part)
    rows: list[torch.Tensor] = []
    for member in members:
        parts = [member(batch, [label])[label].detach().cpu() for batch in batches(data.store, conformers)]
        rows.append(torch.cat(parts).double() if parts else torch.zeros(0, dtype=torch.float64))
    counts = torch.from_numpy(np.diff(data.first)[data.parts[part]])
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return joined(torch.stack(rows), owner, len(counts))


def _test(recipe: AssayRecipe, data: AssayData, found: Answers) -> dict[str, RegressionErrors]:
    """Return the errors of the network and of the baselines, which see training and validation labels."""
    chosen = data.parts["test"]
    if not len(chosen):
        return {}
    smiles, labels = data.compounds.smiles, data.compounds.labels
    errors = {NETWORK: regression_errors(found.value.numpy(), labels[chosen])}
    if not recipe.baselines:
        return errors
    seen = np.concatenate([data.parts["train"], data.parts["validation"]])
    others = baseline_predictions([smiles[i] for i in seen], labels[seen], [smiles[i] for i in chosen])
    return errors | {name: regression_errors(values, labels[chosen]) for name, values in others.items()}


def _calibration_lines(recipe: AssayRecipe, calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return ["no calibration part, so predictions have no intervals (calibration_fraction=0.1 keeps one)"]
    n = len(calibration.scores)
    if math.isinf(calibration.quantile(recipe.coverage)):
        return [
            f"intervals of {recipe.coverage:.0%} are infinite: {n} calibration compounds promise at most "
            f"{n / (n + 1):.0%}, {recipe.coverage:.0%} needs {smallest_calibration(recipe.coverage)} (a larger "
            "calibration_fraction, or a lower coverage)"
        ]
    return []


def _covered(
    recipe: AssayRecipe, data: AssayData, found: Answers, calibration: Calibration
) -> tuple[float | None, str]:
    """Return the fraction of test labels inside their intervals, and a line about it."""
    labels = data.compounds.labels[data.parts["test"]]
    radius = calibration.radius(found.deviation, len(labels), recipe.coverage).numpy()
    if not np.isfinite(radius).all():
        return None, f"no coverage on the {len(labels)} test compounds: infinite intervals hold everything"
    inside = np.abs(found.value.numpy() - labels) <= radius
    promise = (
        "calibration and test compounds are drawn alike, so on average it holds"
        if recipe.split == "random"
        else f"with a {recipe.split} split test compounds are not like those of the calibration: no promise, only this"
    )
    return float(inside.mean()), (
        f"intervals of {recipe.coverage:.0%} hold {inside.sum()} of {len(labels)} test labels ({inside.mean():.0%}; "
        f"{promise}); mean half width {radius.mean():.3g}"
    )


def _save(
    recipe: AssayRecipe,
    label: str,
    out: Path,
    data: AssayData,
    members: Sequence[Model],
    calibration: Calibration | None,
) -> None:
    first = load_model(out / MEMBERS / "0" / MODEL_FILE)
    metadata = {
        "recipe": dump_settings(recipe),
        "assay": {
            "target": recipe.target,
            "label": label,
            "smiles": recipe.smiles,
            "fragments": recipe.fragments,
            "conformers": recipe.conformers,
            "conformer_seed": recipe.conformer_seed,
            "coverage": recipe.coverage,
            "split": recipe.split,
        },
        "data": {"fingerprint": data.store.fingerprint, "source": str(recipe.data)},
    }
    save_model(
        members[0],
        out / MODEL_FILE,
        first.backbone,
        metadata,
        further=members[1:],
        calibration={} if calibration is None else {label: calibration},
    )


def _predictions(recipe: AssayRecipe, data: AssayData, found: Answers, calibration: Calibration | None) -> str:
    """Return the test compounds with labels, predictions and intervals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    chosen = data.parts["test"]
    values = found.value.numpy()
    columns: dict[str, Float64[np.ndarray, " _"]] = {recipe.target: data.compounds.labels[chosen], "predicted": values}
    if found.deviation is not None:
        columns["std"] = found.deviation.numpy()
    if calibration is not None:
        radius = calibration.radius(found.deviation, len(values), recipe.coverage).numpy()
        columns |= {"lower": values - radius, "upper": values + radius}
    writer.writerow(["smiles", *columns])
    for row, index in enumerate(chosen):
        writer.writerow([data.compounds.smiles[index], *(repr(float(column[row])) for column in columns.values())])
    return text.getvalue()
