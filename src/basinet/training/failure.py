"""Stop a run at a loss that is not finite, and save the step for ``basinet debug-step``."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from basinet.config import read_settings
from basinet.errors import RunError
from basinet.files import read_torch, write_torch
from basinet.models.heads.base import HeadKind
from basinet.models.heads.property import PropertyForm
from basinet.models.model import Model
from basinet.models.version_0_1 import current_heads, current_weights
from basinet.structures.batch import Batch
from basinet.structures.batch_topology import BatchTopology, Rotors
from basinet.structures.segment import max_norm

FAILURE_FILE = "failure.pt"


class NonFiniteLossError(RunError):
    """The loss or its gradient is infinite or NaN."""


class BeforeStep:
    """Copy of the generator and the buffers of the model, which a step changes before it can fail."""

    def __init__(self, model: Model, generator: torch.Generator) -> None:
        self.generator = generator.get_state()
        self.buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}


def stop_for_failure(
    directory: Path,
    rank: int,
    step: int,
    model: Model,
    named: Sequence[tuple[str, Batch]],
    before: BeforeStep,
    what: str,
) -> NonFiniteLossError:
    """Save the failed step and return the error to raise; batches come with the names of their sources."""
    path = directory / (FAILURE_FILE if rank == 0 else f"rank{rank}-{FAILURE_FILE}")
    weights = {**model.state_dict(), **before.buffers}
    batches = [batch for _, batch in named]
    saved = {
        "step": step,
        "heads": model.head_kinds(),
        "properties": {name: form._asdict() for name, form in model.forms().items()},
        "model": weights,
        "generator": before.generator,
        "batches": [_plain(b) for b in batches],
        "sources": [name for name, _ in named],
    }
    write_torch(path, saved)
    labels = [b.labels["forces"] for b in batches if "forces" in b.labels]
    norms = [max_norm(torch.nan_to_num(f.double(), nan=0.0)) for f in labels]
    largest = f"; largest force label {max(norms):.3g} eV/Å" if norms else ""
    return NonFiniteLossError(
        f"step {step}: {what} is not finite. Molecules {_molecules(named)}{largest}. "
        f"The step is saved in {path}; look at it with: basinet debug-step {directory}. "
        "Likely causes: a learning rate that is too high, or labels in wrong units (basinet data info)"
    )


class Failure(NamedTuple):
    """A failed step as one process saved it."""

    step: int
    heads: dict[str, HeadKind]
    """Kind of each head of the model."""
    properties: dict[str, PropertyForm]
    """Its heads of properties."""
    weights: dict[str, Tensor]
    """Parameters and buffers before the step."""
    generator: Tensor
    """State of the noise generator before the step."""
    batches: list[Batch]
    sources: list[str]
    """Source of each batch; "" if there was one only."""


def load_failure(path: Path) -> Failure:
    """Read a failed step, onto the CPU."""
    saved = read_torch(path)
    batches = [_batch(b) for b in saved["batches"]]
    properties = {name: PropertyForm(**form) for name, form in saved["properties"].items()}
    kinds, forms = current_heads(saved["heads"], properties)
    heads: dict[str, HeadKind] = read_settings(dict[str, HeadKind], kinds, f"{path}: heads")
    weights = current_weights(saved["model"])
    return Failure(saved["step"], heads, forms, weights, saved["generator"], batches, saved["sources"])


def _plain(batch: Batch) -> dict[str, Any]:
    return {
        "atomic_numbers": batch.atomic_numbers,
        "positions": batch.positions,
        "molecule": batch.molecule,
        "n_molecules": batch.n_molecules,
        "labels": dict(batch.labels),
        "flags": dict(batch.flags),
        "ids": batch.ids,
        "topology": None if batch.topology is None else asdict(batch.topology),
    }


def _batch(plain: dict[str, Any]) -> Batch:
    topology = plain["topology"]
    if topology is not None:
        topology = BatchTopology(**{**topology, "rotors": Rotors(**topology["rotors"])})
    return Batch(**{**plain, "topology": topology})


def _molecules(named: Sequence[tuple[str, Batch]]) -> str:
    ids: dict[str, list[int]] = {}
    for name, batch in named:
        ids.setdefault(name, []).extend([] if batch.ids is None else batch.ids.tolist())
    return "; ".join(f"{_short(found)} of {name or 'the training data'}" for name, found in ids.items() if found)


def _short(ids: Sequence[int], limit: int = 12) -> str:
    shown = ", ".join(str(i) for i in ids[:limit])
    return shown if len(ids) <= limit else f"{shown} and {len(ids) - limit} more"
