"""Ask a model about molecules: predictions, errors, and embeddings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from basinet.commands.answer.evaluate import errors_of_molecules, property_of
from basinet.commands.answer.halving import Halving
from basinet.commands.answer.load import in_pieces
from basinet.commands.answer.predict import COVERAGE
from basinet.commands.answer.records import Record
from basinet.commands.answer.stream import CHUNK_RECORDS, OutsidePolicy
from basinet.commands.progress import silent
from basinet.commands.recipe import UnitsConfig, property_columns
from basinet.data.chemistry.compounds import ConformerTask, conformers
from basinet.data.chemistry.perception import with_perceived_bonds
from basinet.data.readers import read_molecules
from basinet.evaluation.metrics import Errors
from basinet.evaluation.properties import PropertyErrors
from basinet.interfaces.models import Precision, Sources, load_potential, members_of, ready
from basinet.interfaces.molecules import as_molecules, is_file
from basinet.models.checkpoint import NOT_CALIBRATED, load_ensemble
from basinet.models.committee import Committee, joined, mean_and_spread
from basinet.models.conformal import Calibration
from basinet.models.model import EmbeddingLevel, Model, Pooling
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate, unbatch


class PropertyValue(NamedTuple):
    """A predicted property of a molecule."""

    value: float
    """In ``unit``; mean over conformers, and over the members of an ensemble."""
    unit: str
    std: float | None = None
    """Standard deviation over the members of an ensemble; ``None`` for one network."""
    lower: float | None = None
    """Lower end of the interval of a calibrated model; ``None`` without calibration."""
    upper: float | None = None
    """Upper end of the interval."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predictions for one molecule; what the model does not offer is ``None``."""

    energy: float | None = None
    """eV."""
    forces: Float64[np.ndarray, "n_atoms 3"] | None = None
    """eV/Å."""
    energy_std: float | None = None
    """Standard deviation over the members of an ensemble, eV; ``None`` for one network."""
    forces_std: Float64[np.ndarray, " n_atoms"] | None = None
    """Standard deviation of the force on each atom, eV/Å; ``None`` for one network."""
    properties: Mapping[str, PropertyValue]
    """Properties by name; empty for a model of energies."""
    outside_scope: str = ""
    """How the molecule differs from those in training; "" if it does not."""


class Predictions(Sequence[Prediction]):
    """Predictions for several molecules: a sequence of them, and their numbers as arrays."""

    def __init__(self, of_molecules: Sequence[Prediction]) -> None:
        self._of_molecules = tuple(of_molecules)

    def __len__(self) -> int:
        return len(self._of_molecules)

    def __getitem__(self, index: Any) -> Any:
        found = self._of_molecules[index]
        return Predictions(found) if isinstance(index, slice) else found

    def __repr__(self) -> str:
        return f"Predictions of {len(self)} molecules"

    @property
    def energy(self) -> Float64[np.ndarray, " n_molecules"] | None:
        """Energies, eV."""
        return _stacked([one.energy for one in self])

    @property
    def energy_std(self) -> Float64[np.ndarray, " n_molecules"] | None:
        """Standard deviations of the energies over the members of an ensemble, eV."""
        return _stacked([one.energy_std for one in self])

    @property
    def forces(self) -> list[Float64[np.ndarray, "_ 3"]] | None:
        """Forces [n_atoms, 3] of each molecule, eV/Å."""
        found = [one.forces for one in self if one.forces is not None]
        return found if len(found) == len(self) else None

    def property(self, name: str) -> Float64[np.ndarray, " n_molecules"]:
        """Return the values of a property, in its unit."""
        return np.array([one.properties[name].value for one in self])


def _stacked(values: Sequence[float | None]) -> Float64[np.ndarray, " n"] | None:
    return None if any(value is None for value in values) else np.array(values, dtype=np.float64)


def predict(
    model: Sources,
    molecules: Any,
    *,
    outside_scope: OutsidePolicy = "error",
    coverage: float | None = None,
    device: str | None = None,
    precision: Precision | None = None,
) -> Any:
    """Predict energies (eV) and forces (eV/Å), or properties, of molecules.

    A SMILES becomes one conformer (:meth:`Molecule.from_smiles`). A model file that was trained on a table of SMILES
    says how many conformers it needs; their predictions are averaged, as in ``basinet predict``.

    Args:
        model: a model file, a model from :func:`basinet.load`, or several of them, which are an ensemble.
        molecules: a Molecule, ``ase.Atoms``, ``rdkit.Chem.Mol``, SMILES, ``(atomic_numbers, positions)`` in Å, a list
            of these, or a file.
        outside_scope: ``"error"`` refuses molecules unlike those in training; ``"warn"`` answers, and says how they
            differ in ``Prediction.outside_scope``.
        coverage: probability of the intervals of a calibrated model file; ``None``: that of its training, or 0.9.
        device: ``"cpu"`` or ``"cuda"``; ``None``: the CPU, or where a loaded model is.
        precision: precision of positions, features and forces; ``None``: ``"float32"``, or that of a loaded model.

    Returns:
        A :class:`Prediction` for one structure, :class:`Predictions` for a list or a file.

    Raises:
        ValueError: a molecule is not valid or outside of the scope, or the model has neither energy nor property.
        TypeError: ``molecules`` is nothing of the above.

    Example:
        >>> from ase.build import molecule
        >>> water = basinet.predict("model.safetensors", molecule("H2O"))  # doctest: +SKIP
        >>> water.energy, water.forces.shape  # doctest: +SKIP
        (-2080.1, (3, 3))
    """
    asked = _Asked.load(model, coverage, device, precision)
    records, is_one = _records(molecules, asked)
    found = Halving(partial(asked.answer, outside_scope), CHUNK_RECORDS, silent)(records)
    return found[0] if is_one else Predictions(found)


class _Asked(NamedTuple):
    """A model, and how a file says it is to be asked."""

    model: Model | Committee
    calibration: Mapping[str, Calibration]
    coverage: float
    conformers: Mapping[str, Any]
    """How conformers were made of SMILES in training; empty if none were."""

    @classmethod
    def load(cls, model: Sources, coverage: float | None, device: str | None, precision: Precision | None) -> "_Asked":
        loaded = load_potential(model, device, precision)
        file = load_ensemble(Path(model)) if isinstance(model, str | Path) else None
        trained: Mapping[str, Any] = {} if file is None else file.metadata.get("assay", {})
        level = trained.get("coverage", COVERAGE) if coverage is None else coverage
        return cls(loaded, NOT_CALIBRATED if file is None else file.calibration, level, trained)

    @torch.no_grad()
    def answer(self, outside_scope: OutsidePolicy, records: Sequence[Record]) -> list[Prediction]:
        """Return the predictions of records, averaged over their conformers."""
        outside = [self._outside(record.conformers[0], outside_scope) for record in records]
        batch, owner = batch_of(records, like=next(self.model.parameters()))
        names = sorted(self.model.offers & {"energy", "forces", *self.model.properties})
        members = members_of(self.model)
        said = [in_pieces(partial(one, outputs=names, create_graph=False), batch) for one in members]
        forces = _forces(said, batch, owner, len(records)) if "forces" in names else [{}] * len(records)
        values = {name: self._values(name, said, owner, len(records)) for name in names if name != "forces"}
        energies = values.pop("energy", None)
        return [
            Prediction(
                energy=None if energies is None else energies[i].value,
                energy_std=None if energies is None else energies[i].std,
                properties={name: of[i] for name, of in values.items()},
                outside_scope=outside[i],
                **forces[i],
            )
            for i in range(len(records))
        ]

    def _outside(self, molecule: Molecule, policy: OutsidePolicy) -> str:
        if policy == "error":
            self.model.scope.check_molecule(molecule)
        return "; ".join(self.model.scope.outside(molecule.atomic_numbers, molecule.charge))

    def _values(self, name: str, said: Sequence[Mapping[str, Tensor]], owner: Tensor, n: int) -> list[PropertyValue]:
        unit = self.model.properties[name].form.unit if name in self.model.properties else "eV"
        answer = joined(torch.stack([one[name].double().cpu() for one in said]), owner, n)
        values = answer.value.tolist()
        std: list[Any] = [None] * n if answer.deviation is None else answer.deviation.tolist()
        if name not in self.calibration:
            return [PropertyValue(value, unit, s) for value, s in zip(values, std, strict=True)]
        radius = self.calibration[name].radius(answer.deviation, n, self.coverage).tolist()
        return [PropertyValue(v, unit, s, v - r, v + r) for v, s, r in zip(values, std, radius, strict=True)]


def _forces(said: Sequence[Mapping[str, Tensor]], batch: Batch, owner: Tensor, n: int) -> list[dict[str, Any]]:
    """Return the forces of each record, and their spread; those of several conformers belong to no one geometry."""
    found = (
        {"forces": said[0]["forces"]} if len(said) == 1 else mean_and_spread([{"forces": s["forces"]} for s in said])
    )
    if len(owner) > n:
        return [{}] * n
    rows = {name: [v.double().cpu().numpy() for v in unbatch(value, batch)] for name, value in found.items()}
    return [{name: value[i] for name, value in rows.items()} for i in range(n)]


def _records(given: Any, asked: _Asked) -> tuple[list[Record], bool]:
    """Return a record of each molecule; a SMILES has as many conformers as the model was trained with."""
    trained = asked.conformers
    texts = [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []
    smiles = [] if is_file(given) else [text for text in texts if isinstance(text, str)]
    if trained and smiles and len(smiles) == len(texts):
        return [_of_smiles(i, text, trained) for i, text in enumerate(smiles)], isinstance(given, str)
    molecules, is_one = as_molecules(given)
    perceived = _with_bonds(members_of(asked.model)[0], iter(molecules))
    return [Record(i, m.name, m.smiles, {}, [m], "") for i, m in enumerate(perceived)], is_one


def _of_smiles(number: int, smiles: str, trained: Mapping[str, Any]) -> Record:
    task = ConformerTask(
        smiles, trained.get("conformers", 1), trained.get("conformer_seed", 0), trained.get("fragments", "refuse")
    )
    found = conformers(task)
    if isinstance(found, str):
        raise ValueError(f"SMILES {smiles!r}: {found}; expected one molecule with closed shells, such as 'CCO'")
    return Record(number, smiles, smiles, {}, found, "")


def _with_bonds(model: Model, molecules: Iterator[Molecule]) -> Iterator[Molecule]:
    return with_perceived_bonds(molecules) if model.backbone.needs_bonds else molecules


def embed(
    model: Sources,
    molecules: Any,
    *,
    level: EmbeddingLevel = "molecule",
    pooling: Pooling = "mean",
    member: int = 1,
    outside_scope: OutsidePolicy = "error",
    device: str | None = None,
) -> Any:
    """Embed molecules: the scalar features of the last layer, which no rotation, reflection or shift changes.

    Args:
        model: a model file or a model from :func:`basinet.load`; pre-trained ones too.
        molecules: as for :func:`predict`.
        level: ``"molecule"``, or ``"atom"`` for a row for each atom.
        pooling: how atoms become a molecule, ``"mean"`` or ``"sum"``.
        member: member of an ensemble, from 1.
        outside_scope: ``"error"`` refuses molecules unlike those in training; ``"warn"`` embeds them.
        device: ``"cpu"`` or ``"cuda"``; ``None``: the CPU, or where a loaded model is.

    Returns:
        float32: [n_features] for one structure, [n_molecules, n_features] for several. Of atoms: [n_atoms, n_features]
        for one structure, a list of these for several.

    Raises:
        ValueError: a molecule is not valid or outside of the scope, or there is no such member.
        TypeError: ``molecules`` is nothing that can be read.
    """
    chosen = _member(model, member, device)
    given, is_one = as_molecules(molecules)
    perceived = list(_with_bonds(chosen, iter(given)))
    for molecule in perceived if outside_scope == "error" else []:
        chosen.scope.check_molecule(molecule)

    @torch.no_grad()
    def rows(part: Sequence[Molecule]) -> list[Float32[np.ndarray, "..."]]:
        batch, _ = batch_of([Record(0, "", "", {}, [m], "") for m in part], like=next(chosen.parameters()))
        found = in_pieces(lambda piece: {"rows": chosen.embed(piece, level, pooling)}, batch)["rows"].float()
        return [one.cpu().numpy() for one in (unbatch(found, batch) if level == "atom" else found)]

    found = Halving(rows, CHUNK_RECORDS, silent)(perceived)
    if is_one:
        return found[0]
    return found if level == "atom" else np.stack(found)


def batch_of(records: Sequence[Record], like: Tensor) -> tuple[Batch, Tensor]:
    """Return the conformers of records on the device and in the precision of a tensor, and the record of each."""
    molecules = [replace(m, labels={}) for record in records for m in record.conformers]
    owner = [i for i, record in enumerate(records) for _ in record.conformers]
    return collate(molecules, like.dtype).to(like.device), torch.tensor(owner, dtype=torch.int64)


def _member(model: Sources, number: int, device: str | None) -> Model:
    if isinstance(model, str | Path):  # not by load: a committee is of energies or properties, an embedding of neither
        members = list(load_ensemble(Path(model)).members)
    else:
        members = members_of(ready(model, device, None))
    n = len(members)
    if not 1 <= number <= n:
        raise ValueError(f"the model has {n} members, asked for member={number}; expected a number from 1 to {n}")
    chosen = ready(members[number - 1], device, None)
    assert isinstance(chosen, Model)
    return chosen


def evaluate(model: Sources, molecules: Any, *, device: str | None = None, **units: Any) -> Errors | PropertyErrors:
    """Return the errors of a model against the labels of molecules.

    Args:
        model: a model file, or a model from :func:`basinet.load`.
        molecules: a file, a store, or a list of structures with labels: ``Molecule.labels``, or energy and forces of
            ``ase.Atoms`` (see :meth:`Molecule.from_ase`).
        device: ``"cpu"`` or ``"cuda"``; ``None``: the CPU, or where a loaded model is.
        **units: units and keys of a file (:class:`~basinet.commands.recipe.UnitsConfig`): ``energy_unit``,
            ``length_unit``, ``energy_key``, ``forces_key``, ``property_key``, ``property_unit``.

    Returns:
        Errors of energies (eV) and forces (eV/Å), or of the property in its unit.

    Raises:
        ValueError: no molecule has a label to compare with, or one has elements that the model does not know.
        TypeError: ``molecules`` is nothing that can be read, or there is no such option.
    """
    loaded = load_potential(model, device, None)
    if is_file(molecules):
        settings = UnitsConfig(**units)
        stream = read_molecules(
            molecules, settings.reading(property_columns(Path(molecules), settings, property_of(loaded)))
        )
        name = str(molecules)
    elif units:
        raise TypeError(f"{', '.join(units)} are for files; molecules in memory are in eV and Å, leave them out")
    else:
        stream, name = iter(as_molecules(molecules)[0]), "molecules"
    return errors_of_molecules(loaded, _with_bonds(members_of(loaded)[0], stream), name)
