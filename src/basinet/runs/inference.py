"""Using a model on files: its errors where there are labels, its predictions everywhere."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from basinet.data.readers import open_molecules, write_extxyz
from basinet.evaluation.metrics import Errors, ForceEnergyErrors
from basinet.models.checkpoint import load_model
from basinet.models.model import Model
from basinet.recipe import UnitsConfig
from basinet.runs.common import VALIDATION_BATCH
from basinet.structures import Molecule
from basinet.structures.batch import collate, unbatch


def evaluate_file(model_file: Path, data: Path, units: UnitsConfig, device: str = "cpu") -> tuple[Errors, str]:
    """Return the errors of a model on the labelled molecules of a file or store, and a line about what was read.

    Raises:
        ValueError: there are no molecules, none has labels, or there are elements the model does not know.
    """
    model = _load(model_file, device)
    molecules, report = open_molecules(
        data,
        energy_unit=units.energy_unit,
        length_unit=units.length_unit,
        energy_key=units.energy_key,
        forces_key=units.forces_key,
    )
    errors = ForceEnergyErrors()
    for chunk in _chunks(molecules):
        batch = collate(chunk).to(device)
        model.scope.check(batch)
        errors.update(model(batch, ["energy", "forces"]), batch)
    found = errors.compute()
    if not found.n_molecules:
        raise ValueError(f"{data} holds no molecules")
    if not found.n_energies and not found.n_forces:
        raise ValueError(f"{data}: none of its {found.n_molecules} molecules has an energy or forces to compare with")
    return found, str(report)


def predict_file(model_file: Path, data: Path, out: Path, device: str = "cpu") -> int:
    """Write an extxyz with the energies (eV) and forces (eV/Å) of a model, and return the number of molecules.

    Labels of the input are kept under ``REF_energy`` and ``REF_forces``. Molecules stream: memory does not grow with
    the file, and the output appears when it is complete.
    """
    model = _load(model_file, device)
    molecules, _ = open_molecules(data, energy_unit="eV" if data.suffix == ".npz" else None)
    count = write_extxyz(out, _predictions(model, molecules, device))
    if not count:
        out.unlink()
        raise ValueError(f"{data} holds no molecules")
    return count


def _predictions(model: Model, molecules: Iterable[Molecule], device: str) -> Iterator[tuple[Molecule, dict[str, Any]]]:
    for chunk in _chunks(molecules):
        batch = collate(chunk).to(device)
        model.scope.check(batch)
        found = model(batch, ["energy", "forces"])
        forces = unbatch(found["forces"], batch)
        for molecule, energy, force in zip(chunk, found["energy"].tolist(), forces, strict=True):
            yield molecule, {"energy": energy, "forces": force.double().cpu().numpy()}


def _chunks(molecules: Iterable[Molecule]) -> Iterator[list[Molecule]]:
    iterator = iter(molecules)
    while chunk := list(islice(iterator, VALIDATION_BATCH)):
        yield chunk


def _load(path: Path, device: str) -> Model:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device here; leave --device out to use the CPU")
    model = load_model(path).model
    if model.has_pooled_energy:
        raise ValueError(
            f"{path} was pre-trained by 3D-EMGP, and its energy is none in eV; fine-tune it first "
            f"(basinet finetune ... from={path})"
        )
    if "energy" not in model.offers:
        raise ValueError(
            f"{path} offers {', '.join(sorted(model.offers))} and no energy; fine-tune it first "
            f"(basinet finetune ... from={path})"
        )
    return model.to(device).eval()
