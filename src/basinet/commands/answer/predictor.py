"""A model file ready to answer: as it is, or with tables and compiled."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from basinet.backbones.kernels import with_kernels
from basinet.commands.answer.evaluate import require_answers, require_device
from basinet.commands.answer.pieces import in_pieces
from basinet.commands.answer.stream import Say
from basinet.models.committee import mean_and_spread
from basinet.models.fast import FastPotential, ToCome, compiler_for
from basinet.models.file import EnsembleFile, load_ensemble
from basinet.models.joint import Compiler
from basinet.models.model import Model
from basinet.models.tabulated import tabulable
from basinet.structures.batch import Batch

Ask = Callable[[Batch, Iterable[str]], list[dict[str, Tensor]]]
"""Returns what each member says about a batch, by the name of the output, without derivatives."""


class Faster(NamedTuple):
    """What makes energies and forces faster (:mod:`basinet.models.fast`)."""

    tables: bool = False
    """Whether filters are looked up in tables."""
    compiled: bool = False
    """Whether the network is compiled first."""


AS_IT_IS = Faster()
"""Neither."""


class Predictor(NamedTuple):
    """A model file ready to answer."""

    file: EnsembleFile
    members: tuple[Model, ...]
    """On the device, in evaluation mode."""
    device: str
    ask: Ask
    """The members, or what stands in for them."""

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

    def faster(self, wanted: Faster, to_come: Callable[[], ToCome], say: Say) -> "Predictor":
        """Return one that answers with tables, compiled or both, from the first batch on.

        Tables are certified on that batch; what the network is compiled for is decided by all that is to come.

        Args:
            wanted: at least one of the two.
            to_come: looks through the input; called once, if the network is compiled.
            say: told the errors of tables, and what is compiled.

        Raises:
            ValueError: the model has no energy, or no filters for tables.
            RunError: there is no compiler.
        """
        _check(self.first, wanted)
        compiler = compiler_for(torch.device(self.device)) if wanted.compiled else None
        return self._replace(ask=_Fast(self.members, wanted.tables, compiler, to_come, say))


def _check(model: Model, wanted: Faster) -> None:
    offered = ", ".join(sorted(model.offers))
    if "energy" not in model.offers:
        raise ValueError(
            f"--tables and --compiled are for energies and forces, and the model offers {offered}; leave them out"
        )
    if wanted.tables:
        tabulable(model)
    if wanted.tables and model.properties:
        raise ValueError(
            f"--tables are certified for energies and forces, and the model offers {offered}; leave --tables out"
        )


class _Fast:
    """Asks the fast potentials of the members, made when the first batch comes."""

    def __init__(
        self,
        members: Sequence[Model],
        tables: bool,
        compiler: Compiler | None,
        to_come: Callable[[], ToCome],
        say: Say,
    ) -> None:
        self._members, self._tables, self._compiler = members, tables, compiler
        self._to_come, self._say = to_come, say
        self._potentials: list[FastPotential] = []

    def __call__(self, batch: Batch, outputs: Iterable[str]) -> list[dict[str, Tensor]]:
        """Return what each member says."""
        self._potentials = self._potentials or self._made(batch)
        if self._compiler is not None:  # what is compiled is cut already
            return [potential.answers(batch, outputs) for potential in self._potentials]
        return [in_pieces(partial(potential.answers, outputs=outputs), batch) for potential in self._potentials]

    def _made(self, like: Batch) -> list[FastPotential]:
        to_come = None if self._compiler is None else self._to_come()
        options = {"tables": self._tables, "compiler": self._compiler, "to_come": to_come}
        made = [FastPotential(member, like, **options) for member in self._members]
        for number, potential in enumerate(made, start=1):
            whose = f"member {number} of {len(made)}: " if len(made) > 1 else ""
            for note in potential.notes:
                self._say(whose + note)
        if (network := made[0].network) is not None:
            sizes = ", ".join(map(str, network.shapes.sizes))
            self._say(
                f"compiling the network for molecules of up to {sizes} atoms, {network.shapes.n_molecules} at a time: "
                "it takes up to some minutes, once on a machine"
            )
        return made
