"""Load a model file to answer from, and ask it about batches."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from basinet.backbones.base import with_kernels
from basinet.data.stream.batching import by_size, cuts_by_atoms
from basinet.devices import resolve_device
from basinet.models.checkpoint import EnsembleFile, load_ensemble, load_model
from basinet.models.committee import Committee, mean_and_spread
from basinet.models.model import Model
from basinet.structures.batch import Batch
from basinet.structures.batch_topology import Runs

PIECE_ATOMS = 300
"""Atoms in a piece of a batch. Larger pieces need memory that leaves the caches, smaller ones start more operations."""


class Predictor(NamedTuple):
    """A model file ready to answer."""

    file: EnsembleFile
    members: tuple[Model, ...]
    """On the device, in evaluation mode."""
    device: str

    @classmethod
    def load(cls, path: Path, device: str) -> "Predictor":
        """Load all members of a model file."""
        device = resolve_device(device)
        file = load_ensemble(path)
        require_answers(path, file.members[0])
        return cls(file, tuple(with_kernels(member.to(device).eval()) for member in file.members), device)

    @property
    def first(self) -> Model:
        """The first member; all offer the same and know the same molecules."""
        return self.members[0]

    @torch.no_grad()
    def ask(self, batch: Batch, outputs: Iterable[str]) -> list[dict[str, Tensor]]:
        """Return the outputs of each member for a batch, by name, without derivatives."""
        return [in_pieces(partial(member, outputs=outputs, create_graph=False), batch) for member in self.members]

    def answers(self, batch: Batch, outputs: Iterable[str]) -> dict[str, Tensor]:
        """Return the outputs for a batch; of several members the mean, and the spread as ``<name>_std``."""
        found = self.ask(batch, outputs)
        return found[0] if len(found) == 1 else mean_and_spread(found)


def in_pieces(ask: Callable[[Batch], Mapping[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
    """Return the outputs of ``ask`` for a batch, by name, asked about a few molecules of similar size at a time.

    On a CPU that takes less time than the whole batch at once: nothing is padded. The cuts depend on the sizes of the
    molecules alone. On a GPU the batch stays whole.

    Args:
        ask: gives outputs with a row for each molecule or for each atom; it gets no labels.
        batch: molecules.
    """
    count = batch.atoms_per_molecule
    sizes = count.cpu().numpy()
    order = by_size(sizes)
    cuts = cuts_by_atoms(sizes[order], PIECE_ATOMS) if batch.positions.device.type == "cpu" and len(order) else []
    if not len(cuts):
        return dict(ask(batch))
    batch = batch.replace(labels={}, flags={})
    found = [ask(batch.select(torch.from_numpy(chosen))) for chosen in np.split(order, cuts)]
    molecules = torch.from_numpy(order)
    atoms = Runs.of(count, molecules).rows
    answers: dict[str, Tensor] = {}
    for name in found[0]:
        rows = torch.cat([one[name] for one in found])
        answers[name] = rows[torch.argsort(atoms if len(rows) == batch.n_atoms else molecules)]
    return answers


def load_any(path: Path, device: str) -> Model:
    """Return a model of any outputs in evaluation mode; of an ensemble, the first member.

    Raises:
        ValueError: there is no such device, or the file is not a model.
    """
    device = resolve_device(device)
    return with_kernels(load_model(path).model.to(device).eval())


def load_energy_or_property(path: Path, device: str) -> Model | Committee:
    """Return a model of energies or properties in evaluation mode; several in one file are a committee.

    Raises:
        ValueError: there is no such device, or the model has neither an energy in eV nor a property.
    """
    device = resolve_device(device)
    members = load_ensemble(path).members
    require_answers(path, members[0])
    return with_kernels((members[0] if len(members) == 1 else Committee(members)).to(device).eval())


def load_energy_model(path: Path, device: str) -> Model | Committee:
    """Return a model that has energies and forces; several in one file are a committee.

    Raises:
        ValueError: it has none; see also :func:`load_energy_or_property`.
    """
    model = load_energy_or_property(path, device)
    if "forces" not in model.offers:
        raise ValueError(f"{path} offers {', '.join(sorted(model.offers))} and no forces; dynamics need forces")
    return model


def require_answers(path: Path, model: Model) -> None:
    """Raise a ``ValueError`` if a model has neither an energy in eV nor a property."""
    if "energy" not in model.offers and not model.properties:
        raise ValueError(
            f"{path} offers {', '.join(sorted(model.offers))} and neither energy nor property; fine-tune it first "
            f"(basinet finetune ... from={path}), or see which forces its noise implies (basinet evaluate "
            "--force-correlation)"
        )
    if model.has_pooled_energy:
        raise ValueError(
            f"{path} was pre-trained by 3D-EMGP, and its energy is not in eV; fine-tune it first "
            f"(basinet finetune ... from={path})"
        )
