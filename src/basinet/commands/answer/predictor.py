"""Load a model file to answer from."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from basinet.backbones.base import with_kernels
from basinet.commands.answer.evaluate import require_answers, require_device
from basinet.commands.answer.pieces import in_pieces
from basinet.models.committee import mean_and_spread
from basinet.models.file import EnsembleFile, load_ensemble
from basinet.models.model import Model
from basinet.structures.batch import Batch

Ask = Callable[[Batch, Iterable[str]], list[dict[str, Tensor]]]
"""Returns what each member says about a batch, by the name of the output, without derivatives."""


class Predictor(NamedTuple):
    """A model file ready to answer."""

    file: EnsembleFile
    members: tuple[Model, ...]
    """On the device, in evaluation mode."""
    device: str
    ask: Ask

    @classmethod
    def load(cls, path: Path, device: str) -> "Predictor":
        """Load all members of a model file."""
        require_device(device)
        file = load_ensemble(path)
        require_answers(path, file.members[0])
        members = tuple(with_kernels(member.to(device).eval()) for member in file.members)

        @torch.no_grad()
        def ask(batch: Batch, outputs: Iterable[str]) -> list[dict[str, Tensor]]:
            return [in_pieces(partial(member, outputs=outputs, create_graph=False), batch) for member in members]

        return cls(file, members, device, ask)

    @property
    def first(self) -> Model:
        """The first member: what it offers and knows, all do."""
        return self.members[0]

    def answers(self, batch: Batch, outputs: Iterable[str]) -> dict[str, Tensor]:
        """Return what the model says about a batch; of several members the mean, and their spread (``<name>_std``)."""
        found = self.ask(batch, outputs)
        return found[0] if len(found) == 1 else mean_and_spread(found)
