"""Start a run that learns a property, and report its errors beside those of simple baselines."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from basinet.backbones.build import build_backbone
from basinet.commands.answer.evaluate import errors_of_property
from basinet.commands.progress import Say
from basinet.commands.recipe import SCRATCH, FinetuneRecipe
from basinet.commands.statistics import batches, chunks, sample
from basinet.commands.train.start import Start, extended_scope, load_start, reset_noise
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.evaluation.properties import PropertyErrors, describe_baselines
from basinet.models.heads.fit import Baseline, LabelSample, fit_scale, set_scale
from basinet.models.heads.property import PropertyForm, PropertyHead, build_property_head
from basinet.models.model import Model, with_outputs
from basinet.objectives.properties import PropertyConfig


def start_property(
    recipe: FinetuneRecipe,
    target: PropertyConfig,
    requires: frozenset[str],
    store: MoleculeStore,
    split: Split,
    say: Say,
) -> Start:
    """Return a model with a head for the property, and its errors on the validation set before training.

    A loaded model keeps its backbone, a noise head that is learned further, and a head of this very property.
    """
    form = PropertyForm(target.readout, _unit(store, target.label))
    if recipe.start == SCRATCH:
        backbone = recipe.model
        model = Model(build_backbone(recipe.model), {})
        model.scope = extended_scope(model.scope, store, sorted(store.elements))
    else:
        loaded, backbone = load_start(Path(recipe.start), store, split)
        kept = {name: head for name, head in loaded.named_heads().items() if name in requires}
        model = Model(loaded.backbone, kept, scope=extended_scope(loaded.scope, store, []))
    if target.label in model.heads:
        _require_form(model.property_head(target.label), form, recipe.start)
        say(f"the head of {target.label!r} is kept with its scale")
    else:
        head = build_property_head(form, model.backbone)
        set_scale(head, fit_scale(_labels(head, target.label, store, split.train), target.baseline, target.spread))
        model = model.with_heads(**{target.label: head})
    model = with_outputs(model, requires)
    reset_noise(model, recipe, requires)
    before = errors_of_property(model, target.label, batches(store, split.validation))
    baselines = baseline_maes(model.property_head(target.label), target.label, store, split, split.validation)
    say(f"before training: {before}; {describe_baselines(baselines, form.unit)}")
    return Start(model, backbone, before)


def _unit(store: MoleculeStore, label: str) -> str:
    if label not in store.manifest.units:
        raise ValueError(
            f"the store does not say the unit of {label!r}; write it with units={{{label!r}: ...}} (StoreWriter.open, "
            "MoleculeStore.from_molecules)"
        )
    return store.manifest.units[label]


def _require_form(head: PropertyHead, form: PropertyForm, where: str) -> None:
    if head.form != form:
        raise ValueError(
            f"{where} reads the property as {head.form.readout} in {head.form.unit}, the recipe asks for "
            f"{form.readout} in {form.unit}; set objective.readout={head.form.readout}, or rename the property"
        )


def _labels(head: PropertyHead, label: str, store: MoleculeStore, indices: Int64[np.ndarray, " n"]) -> LabelSample:
    """Return the labels of some molecules, or of a sample of very many."""
    return LabelSample.join([LabelSample.of(head, label, batch) for batch in chunks(store, sample(indices, 0))])


def baseline_maes(
    head: PropertyHead, label: str, store: MoleculeStore, split: Split, part: Int64[np.ndarray, " n"]
) -> dict[str, float]:
    """Return the MAE on a part of the data of baselines fitted to the training part, in the unit of the property."""
    train, held_out = (_labels(head, label, store, indices) for indices in (split.train, part))
    kinds: tuple[Baseline, ...] = ("mean", "composition")
    maes: dict[str, float] = {}
    for kind in kinds:
        fitted = fit_scale(train, kind, "none")
        error = held_out.values - fitted.shift - held_out.compositions @ fitted.references
        maes[kind] = float(error.abs().mean())
    return maes


def property_record(model: Model, errors: PropertyErrors, store: MoleculeStore, split: Split) -> dict[str, Any]:
    """Return the record of the test of a property, with the errors of baselines."""
    record: dict[str, Any] = {"n_test": errors.n_molecules, **errors.numbers()}
    if errors.n_labelled:
        head = model.property_head(errors.name)
        record["baseline_mae"] = baseline_maes(head, errors.name, store, split, split.test)
    return record
