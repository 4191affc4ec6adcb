"""A backbone with heads: from a batch to energies, forces and noise."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from basinet.backbones.base import Backbone
from basinet.models.heads import AtomicEnergyHead, Head, NoiseHead
from basinet.models.references import AtomicReferences
from basinet.structures.batch import Batch
from basinet.structures.neighbors import Neighbors, neighbors_of

OUTPUTS = frozenset({"energy", "forces", "noise"})
"""What a model can be asked for: ``energy`` [n_molecules] eV (float64), ``forces`` [n_atoms, 3] eV/Å, ``noise``
[n_atoms, 3] in units of the noise."""


Layout = Callable[[Batch, float | None], Neighbors]
"""Makes the neighbours of a batch within a cutoff (Å)."""


class Scope(NamedTuple):
    """What a model was trained on, and so what it may be asked about."""

    elements: frozenset[int]
    """Atomic numbers; empty: any (nothing trained yet)."""
    level_of_theory: str
    """Of the labels it was last trained on, as the data named it; "" if it has seen no labels."""

    def check(self, batch: Batch) -> None:
        """Raise a ``ValueError`` if the batch has elements the model was never trained on."""
        if not self.elements:
            return
        unknown = sorted(set(batch.atomic_numbers.unique().tolist()) - self.elements)
        if unknown:
            raise ValueError(
                f"the model knows the elements {_symbols(self.elements)}, the data also has {_symbols(unknown)}; "
                "leave those molecules out or fine-tune on data that has them"
            )


def _symbols(atomic_numbers: Iterable[int]) -> str:
    return " ".join(chemical_symbols[z] for z in sorted(atomic_numbers))


ANYTHING = Scope(frozenset(), "")
"""The scope of a model that has not been trained."""


class Model(nn.Module):
    """An energy-based model of molecules.

    Forces are always minus the gradient of the energy; there is no other way to get them. ``noise`` comes from a vector
    head of its own.

    Args:
        backbone: gives the features of each atom.
        heads: by name; ``energy`` (an :class:`AtomicEnergyHead`) and ``noise`` (a :class:`NoiseHead`).
        references: atomic energies and scale that complete the energy.
        scope: what it was trained on.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        references: AtomicReferences | None = None,
        scope: Scope = ANYTHING,
    ) -> None:
        super().__init__()
        unknown = set(heads) - {"energy", "noise"}
        if unknown:
            raise ValueError(f"unknown heads {sorted(unknown)}; a model has the heads 'energy' and 'noise'")
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))
        self.references = references or AtomicReferences()
        self.scope = scope

    @property
    def offers(self) -> frozenset[str]:
        """The outputs this model can be asked for."""
        offered = frozenset(self.heads)
        return offered | {"forces"} if "energy" in offered else offered

    def forward(
        self,
        batch: Batch,
        outputs: Iterable[str],
        *,
        create_graph: bool | None = None,
        layout: Layout = neighbors_of,
    ) -> dict[str, Tensor]:
        """Return the requested outputs by name.

        Args:
            batch: molecules; their labels are not looked at.
            outputs: names from :data:`OUTPUTS`.
            create_graph: whether forces can be differentiated again (the gradient of a force loss); by default
                exactly when the model is in training mode.
            layout: how neighbours are laid out; by default the one that suits the sizes in the batch.
        """
        wanted = frozenset(outputs)
        missing = wanted - self.offers
        if missing:
            raise ValueError(f"the model offers {sorted(self.offers)}, asked for {sorted(missing)}")
        if "forces" not in wanted:
            return self._outputs(batch, wanted, layout)
        create_graph = self.training if create_graph is None else create_graph
        with torch.enable_grad():
            batch = batch.replace(positions=batch.positions.detach().requires_grad_())
            found = self._outputs(batch, (wanted - {"forces"}) | {"energy"}, layout)
            found["forces"] = self._forces(found["energy"], batch.positions, create_graph)
        return {key: value if create_graph else value.detach() for key, value in found.items() if key in wanted}

    def _outputs(self, batch: Batch, wanted: frozenset[str], layout: Layout) -> dict[str, Tensor]:
        features = self.backbone(batch, layout(batch, self.backbone.cutoff))
        found: dict[str, Tensor] = {}
        if "energy" in wanted:
            found["energy"] = self.references(self.heads["energy"](features, batch), batch)
        if "noise" in wanted:
            found["noise"] = self.heads["noise"](features, batch)
        return found

    def _forces(self, energy: Tensor, positions: Tensor, create_graph: bool) -> Tensor:
        if positions.numel() == 0:
            return torch.zeros_like(positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph, materialize_grads=True)
        return -gradient

    def with_heads(self, **heads: Head | None) -> "Model":
        """Return a model on the same backbone with heads added, replaced or (``None``) dropped."""
        kept = {name: head for name, head in self.heads.items() if isinstance(head, Head)} | heads
        chosen = {name: head for name, head in kept.items() if head is not None}
        return Model(self.backbone, chosen, self.references, self.scope)

    def noise_head(self) -> NoiseHead:
        """Return the head that predicts noise, or say that there is none."""
        if "noise" not in self.heads:
            raise ValueError(f"the model has no noise head; it offers {sorted(self.offers)}")
        head = self.heads["noise"]
        assert isinstance(head, NoiseHead)
        return head

    def reset_target_normalizer(self) -> None:
        """Forget the statistics of the noise seen so far: noise of another size is then normalised by itself."""
        self.noise_head().normalizer.reset()


def build_model(backbone: Backbone, outputs: Iterable[str]) -> Model:
    """Return a model with fresh heads for the requested outputs."""
    wanted = frozenset(outputs)
    unknown = wanted - OUTPUTS
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; choose from {sorted(OUTPUTS)}")
    return with_outputs(Model(backbone, {}), wanted)


def with_outputs(model: Model, outputs: Iterable[str]) -> Model:
    """Return a model that offers the requested outputs too: fresh heads for those it has not."""
    missing = frozenset(outputs) - model.offers
    like = next(model.backbone.parameters())  # its device and dtype
    heads: dict[str, Head | None] = {}
    if missing & {"energy", "forces"}:
        heads["energy"] = AtomicEnergyHead(model.backbone.n_scalar).to(like)
    if "noise" in missing:
        heads["noise"] = NoiseHead(model.backbone.n_scalar).to(like)
    return model.with_heads(**heads)
