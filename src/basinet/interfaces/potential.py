"""A model, or several, ready to be asked by another program."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from basinet.backbones.base import with_kernels
from basinet.models.committee import Committee
from basinet.models.file import load_ensemble
from basinet.models.model import Model

Precision = Literal["float32", "float64"]
"""Of positions, features and forces; energies are float64 in any case."""
Source = Model | Committee | str | Path
"""A model, or the file it is in."""


def load_potential(
    source: Source | Sequence[Model | str | Path], device: str, precision: Precision
) -> Model | Committee:
    """Return a model in evaluation mode; several are an ensemble.

    Raises:
        ValueError: there is no such device, a file is no model, a model has neither energy nor property, or its energy
            has no unit.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("no CUDA device here; leave the device out to use the CPU")
    model = _of(source)
    if model.has_pooled_energy or not model.offers & {"energy", *model.properties}:
        raise ValueError(
            f"the model offers {', '.join(sorted(model.offers))}: no energy in eV and no property; fine-tune it first "
            "(basinet finetune ... from=MODEL)"
        )
    return with_kernels(model.to(device=device, dtype=getattr(torch, precision)).eval())


def _of(source: Source | Sequence[Model | str | Path]) -> Model | Committee:
    if isinstance(source, Model | Committee):
        return source
    given = [source] if isinstance(source, str | Path) else source
    members = [m for one in given for m in ([one] if isinstance(one, Model) else load_ensemble(Path(one)).members)]
    return members[0] if len(members) == 1 else Committee(members)
