"""Runs that learn a property: where its labels are, what is fitted before, what is validated and tested."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.commands import common
from basinet.commands.recipe import FinetuneRecipe, UnitsConfig
from basinet.data.files.options import PropertyColumn
from basinet.data.sources.names import locate
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.data.stream.splits import Split
from basinet.evaluation.properties import PropertyErrors, describe_baselines, property_errors
from basinet.models.committee import Committee
from basinet.models.file import load_model
from basinet.models.heads.fit import Baseline, LabelSample, fit_scale, set_scale
from basinet.models.heads.property import PropertyForm, PropertyHead, build_property_head
from basinet.models.model import Model, with_outputs
from basinet.objectives.properties import PropertyConfig
from basinet.structures import Batch
from basinet.training.fit import Validate
from basinet.units import PROPERTY

SCRATCH = "scratch"


def property_columns(path: Path, units: UnitsConfig, label: str | None) -> tuple[PropertyColumn, ...]:
    """Return the column of a file that holds a property; none for a store, which has its labels by name.

    Raises:
        ValueError: the unit is not given, or a column is given where none is read.
    """
    given = units.property_key is not None or units.property_unit is not None
    if label is None or locate(path).is_dir():
        if given:
            reason = (
                "energies and forces are learned here" if label is None else f"{path} is a store and has its labels"
            )
            raise ValueError(f"{reason}; leave property_key and property_unit out")
        return ()
    if units.property_unit is None:
        raise ValueError(
            f"{path} does not say the unit of {label!r}; give property_unit, one of {', '.join(PROPERTY)} (1: without "
            "a unit)"
        )
    return (PropertyColumn(name=label, key=units.property_key or label, unit=units.property_unit),)


def label_unit(store: MoleculeStore, label: str) -> str:
    """Return the unit of a label of a store."""
    if label not in store.manifest.units:
        raise ValueError(
            f"the store does not say the unit of {label!r}; write it with units={{{label!r}: ...}} (StoreWriter.open, "
            "MoleculeStore.from_molecules)"
        )
    return store.manifest.units[label]


def start_property(
    recipe: FinetuneRecipe,
    target: PropertyConfig,
    requires: frozenset[str],
    store: MoleculeStore,
    split: Split,
    say: Callable[[str], None],
) -> tuple[Model, BackboneConfig, PropertyErrors]:
    """Return a model with a head for the property, and its errors on the validation set before training.

    Of a model file only the backbone is kept, the noise head if noise is learned on, and a head of this very property.
    """
    form = PropertyForm(target.readout, label_unit(store, target.label))
    if recipe.start == SCRATCH:
        backbone_config = recipe.model
        model = Model(build_backbone(recipe.model), {})
        model.scope = common.extended_scope(model.scope, store, sorted(store.elements))
    else:
        file = load_model(Path(recipe.start))
        loaded, backbone_config = file.model, file.backbone
        for batch in common.chunks(store, np.concatenate([split.train, split.validation, split.test])):
            loaded.scope.check(batch)
        kept = {name: head for name, head in loaded.named_heads().items() if name in requires}
        model = Model(loaded.backbone, kept, scope=common.extended_scope(loaded.scope, store, []))
    if target.label in model.heads:
        _require_form(model.property_head(target.label), form, recipe.start)
        say(f"the head of {target.label!r} is kept with its scale")
    else:
        head = build_property_head(form, model.backbone)
        set_scale(head, fit_scale(_sample(head, target.label, store, split.train), target.baseline, target.spread))
        model = model.with_heads(**{target.label: head})
    model = with_outputs(model, requires)
    if recipe.start != SCRATCH and "noise" in requires and recipe.noise_statistics == "reset":
        model.reset_target_normalizer()
    before = errors_of_property(model, target.label, common.batches(store, split.validation))
    say(f"before training: {before}; {_compare(model, target.label, store, split)}")
    return model, backbone_config, before


def _require_form(head: PropertyHead, form: PropertyForm, where: str) -> None:
    if head.form != form:
        raise ValueError(
            f"{where} reads the property as {head.form.readout} in {head.form.unit}, asked for was {form.readout} in "
            f"{form.unit}; set objective.readout={head.form.readout}, or give the property another name"
        )


def _sample(head: PropertyHead, label: str, store: MoleculeStore, indices: Int64[np.ndarray, " n"]) -> LabelSample:
    """Return the labels of some molecules, of a sample if they are very many."""
    if len(indices) > common.REFERENCE_SAMPLE:
        indices = np.sort(np.random.default_rng(0).choice(indices, common.REFERENCE_SAMPLE, replace=False))
    return LabelSample.join([LabelSample.of(head, label, batch) for batch in common.chunks(store, indices)])


def baseline_maes(
    head: PropertyHead, label: str, store: MoleculeStore, split: Split, part: Int64[np.ndarray, " n"]
) -> dict[str, float]:
    """Return the MAE on a part of the data of baselines fitted to the training part, in the unit of the property."""
    train, held_out = (_sample(head, label, store, indices) for indices in (split.train, part))
    kinds: tuple[Baseline, ...] = ("mean", "composition")
    maes: dict[str, float] = {}
    for kind in kinds:
        fitted = fit_scale(train, kind, "none")
        error = held_out.values - fitted.shift - held_out.compositions @ fitted.references
        maes[kind] = float(error.abs().mean())
    return maes


def _compare(model: Model, label: str, store: MoleculeStore, split: Split) -> str:
    head = model.property_head(label)
    return describe_baselines(baseline_maes(head, label, store, split, split.validation), head.form.unit)


def errors_of_property(model: Model | Committee, label: str, batches: Iterator[Batch]) -> PropertyErrors:
    """Return the errors of a property on clean molecules, in evaluation mode."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()

    @torch.no_grad()
    def predict(batch: Batch) -> Tensor:
        return model(batch, [label])[label]

    errors = property_errors(predict, (b.to(device) for b in batches), label, model.properties[label].form.unit)
    model.train(was_training)
    return errors


def property_validation(label: str, loader: Loader) -> Validate:
    """Return a function that gives the errors on the validation set.

    Monitored is the MAE on clean molecules, as published, and not the training loss, of which noise may be a part.
    """

    def validate(model: Model) -> Mapping[str, float]:
        errors = errors_of_property(model, label, loader.epoch_batches())
        return {"loss": errors.mae, "mae": errors.mae, "rmse": errors.rmse}

    return validate


def property_record(model: Model, errors: PropertyErrors, store: MoleculeStore, split: Split) -> dict[str, Any]:
    """Return what is written about the test of a property, baselines included."""
    record: dict[str, Any] = {"n_test": errors.n_molecules, **errors.numbers()}
    if errors.n_labelled:
        head = model.property_head(errors.name)
        record["baseline_mae"] = baseline_maes(head, errors.name, store, split, split.test)
    return record
