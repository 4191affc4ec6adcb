"""Measure the errors of a model on labelled molecules."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from basinet.commands.answer.load import in_pieces, load_energy_or_property
from basinet.commands.recipe import UnitsConfig, property_columns
from basinet.commands.statistics import MODEL_BATCH
from basinet.data.chemistry.perception import with_perceived_bonds
from basinet.data.readers import open_molecules
from basinet.evaluation.metrics import Errors, ForceEnergyErrors, to_unit
from basinet.evaluation.metrics import evaluate as energy_and_force_errors
from basinet.evaluation.properties import PropertyErrors, property_errors
from basinet.models.checkpoint import read_backbone
from basinet.models.committee import Committee
from basinet.models.model import Model
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate


def evaluate_file(
    model_file: Path, data: Path, units: UnitsConfig, device: str = "cpu"
) -> tuple[Errors | PropertyErrors, str]:
    """Return the errors of a model on the labelled molecules of a file or store, and a line about what was read.

    Raises:
        ValueError: there are no molecules, none has labels, or there are elements unknown to the model.
    """
    model = load_energy_or_property(model_file, device)
    columns = property_columns(data, units, property_of(model))
    molecules, report = open_molecules(data, units.reading(columns))
    return errors_of_molecules(model, _with_bonds(molecules, model_file), str(data)), str(report)


def errors_of_molecules(
    model: Model | Committee, molecules: Iterable[Molecule], source: str
) -> Errors | PropertyErrors:
    """Return the errors of a model on labelled molecules of ``source``; raises as :func:`evaluate_file`."""
    label = property_of(model)
    if label is not None:
        found = errors_of_property(model, label, _batches(model, molecules))
        if not found.n_labelled:
            raise ValueError(f"{source}: none of its {found.n_molecules} molecules has {label!r} to compare with")
        return found
    errors = ForceEnergyErrors()
    for batch in _batches(model, molecules):
        errors.update(in_pieces(lambda part: model(part, ["energy", "forces"]), batch), batch)
    found = errors.compute()
    if not found.n_molecules:
        raise ValueError(f"{source} holds no molecules")
    if not found.n_energies and not found.n_forces:
        raise ValueError(f"{source}: none of its {found.n_molecules} molecules has an energy or forces to compare with")
    return found


def errors_of(model: Model | Committee, batches: Iterable[Batch]) -> Errors:
    """Return the errors of energies and forces, in evaluation mode."""
    with _evaluating(model) as device:
        return energy_and_force_errors(
            lambda batch: model(batch, ["energy", "forces"]), (b.to(device) for b in batches)
        )


def errors_of_property(model: Model | Committee, label: str, batches: Iterable[Batch]) -> PropertyErrors:
    """Return the errors of a property on clean molecules, in evaluation mode."""

    @torch.no_grad()
    def predict(batch: Batch) -> Tensor:
        return model(batch, [label])[label]

    with _evaluating(model) as device:
        return property_errors(predict, (b.to(device) for b in batches), label, model.properties[label].form.unit)


@contextmanager
def _evaluating(model: Model | Committee) -> Iterator[torch.device]:
    """Put a model into evaluation mode for a while; give its device."""
    was_training = model.training
    model.eval()
    yield next(model.parameters()).device
    model.train(was_training)


def describe_errors(errors: Errors | PropertyErrors) -> str:
    """Return errors as a line for people."""
    if isinstance(errors, PropertyErrors):
        return str(errors)
    parts: list[str] = []
    if errors.n_forces:
        kcal = to_unit(errors.force_mae, "kcal/mol")
        parts.append(f"force MAE {to_unit(errors.force_mae, 'meV'):.1f} meV/Å ({kcal:.3f} kcal/mol/Å)")
    if errors.n_energies:
        parts.append(
            f"energy MAE {to_unit(errors.energy_mae, 'meV'):.1f} meV "
            f"({to_unit(errors.energy_mae_per_atom, 'meV'):.2f} meV/atom)"
        )
    return ", ".join(parts) + f" over {errors.n_molecules} conformations" if parts else "no labels to compare with"


def _with_bonds(molecules: Iterator[Molecule], model_file: Path) -> Iterator[Molecule]:
    """Return molecules with bonds for a network that reads them: those of the data, or else perceived."""
    return with_perceived_bonds(molecules) if read_backbone(model_file).needs_bonds else molecules


def property_of(model: Model | Committee) -> str | None:
    """Return the property of a model; ``None`` if it has energies."""
    if "energy" in model.offers:
        return None
    if len(model.properties) != 1:
        raise ValueError(f"expected a model of energies or of one property, got {sorted(model.offers)}")
    return next(iter(model.properties))


def _batches(model: Model | Committee, molecules: Iterable[Molecule]) -> Iterator[Batch]:
    weight = next(model.parameters())
    for chunk in in_chunks(molecules):
        batch = collate(chunk, weight.dtype).to(weight.device)
        model.scope.check(batch)
        yield batch


def in_chunks(molecules: Iterable[Molecule]) -> Iterator[list[Molecule]]:
    """Cut a stream into lists of the size of a batch."""
    iterator = iter(molecules)
    while chunk := list(islice(iterator, MODEL_BATCH)):
        yield chunk
