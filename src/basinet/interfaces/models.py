"""Load models for use in Python and in other programs."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from basinet.backbones.base import with_kernels
from basinet.devices import resolve_device
from basinet.models.checkpoint import load_ensemble
from basinet.models.committee import Committee
from basinet.models.model import Model

Precision = Literal["float32", "float64"]
"""Precision of positions, features and forces; energies are float64 always."""
Source = Model | Committee | str | Path
"""A model, or its file."""
Sources = Source | Sequence[Model | str | Path]
"""A model, its file, or several of them, which are an ensemble."""


def load(model: Sources, *, device: str | None = None, precision: Precision | None = None) -> Model | Committee:
    """Load a model, ready to answer: on a device, in evaluation mode, with the fastest kernels there.

    Args:
        model: a model file; several are an ensemble. A model that is loaded already is copied.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; ``None``: the CPU, or where a loaded model is.
        precision: precision of positions, features and forces; ``None``: ``"float32"``, or that of a loaded model.

    Returns:
        One network, or the committee of the members of an ensemble.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is no model, the members of an ensemble do not fit, or there is no such device.
    """
    device = None if device is None else resolve_device(device)
    if not isinstance(model, Model | Committee):
        given = [model] if isinstance(model, str | Path) else model
        members = [m for one in given for m in ([one] if isinstance(one, Model) else load_ensemble(Path(one)).members)]
        loaded = members[0] if len(members) == 1 else Committee(members)
        loaded.to(device=device or "cpu", dtype=getattr(torch, precision or "float32"))
        return with_kernels(loaded.eval())
    dtype = None if precision is None else getattr(torch, precision)
    return with_kernels(copy.deepcopy(model).to(device=device, dtype=dtype).eval())


def ready(model: Sources, device: str | None, precision: Precision | None) -> Model | Committee:
    """Return a loaded model that is ready as it is; load any other (:func:`load`)."""
    if isinstance(model, Model | Committee) and not model.training and device is None and precision is None:
        return model
    return load(model, device=device, precision=precision)


def load_potential(model: Sources, device: str | None, precision: Precision | None) -> Model | Committee:
    """Load a model that has an energy in eV or a property.

    Raises:
        ValueError: it has neither; see also :func:`load`.
    """
    loaded = ready(model, device, precision)
    if loaded.has_pooled_energy or not loaded.offers & {"energy", *loaded.properties}:
        raise ValueError(
            f"the model offers {', '.join(sorted(loaded.offers))}: no energy in eV and no property; fine-tune it first "
            "(basinet finetune ... from=MODEL, or basinet.finetune(data, out, start=MODEL))"
        )
    return loaded


def members_of(model: Model | Committee) -> list[Model]:
    """Return the networks of a model."""
    return model.models if isinstance(model, Committee) else [model]
