"""Define the model: a backbone with heads, from a batch to energies, forces and noise."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from basinet.backbones.base import Backbone, Layout, NodeFeatures
from basinet.models.corrections import Correction, D3Config, ZBLConfig, build_correction
from basinet.models.heads.base import Head, HeadKind
from basinet.models.heads.build import build_head
from basinet.models.heads.distance import DistanceScoreHead
from basinet.models.heads.noise import NoiseHead
from basinet.models.heads.noise_level import NoiseLevelHead, PooledNoiseLevelHead, SharedNoiseLevelHead
from basinet.models.heads.property import (
    ENERGY,
    POOLED_ENERGY,
    PooledReadout,
    PropertyForm,
    PropertyHead,
    PropertyScale,
    build_property_head,
    check_property_name,
)
from basinet.models.scope import ANYTHING, Scope
from basinet.structures.batch import Batch
from basinet.structures.layouts import neighbors_of
from basinet.structures.pairs import AtomPairs
from basinet.structures.segment import mean_per_molecule, sum_per_molecule

HEADS = {"energy": PropertyHead, "noise": NoiseHead, "noise_level": NoiseLevelHead, "distance_score": DistanceScoreHead}
"""Types of the heads with fixed names. Under any other name a model may have a :class:`PropertyHead`."""

OUTPUTS = frozenset({"energy", "forces", "pooled_energy", "noise", "noise_level", "distance_score"})
"""Outputs of models: ``energy`` [n_molecules] eV (float64), ``forces`` [n_atoms, 3] eV/Å, ``noise`` [n_atoms, 3]
in units of the noise; of two batches (:meth:`Model.noise_level`) ``noise_level`` [n_molecules, n_levels]; of pairs of
atoms (:meth:`Model.distance_score`) ``distance_score`` [n_pairs], in units of the noise; and
``pooled_energy`` [n_molecules] (float64), that of 3D-EMGP, which has no unit and is no sum over atoms: to ask for it
makes it the energy of the model. Beside these, properties by name: [n_molecules] (float64), in the unit of their
head."""

EmbeddingLevel = Literal["molecule", "atom"]
Pooling = Literal["mean", "sum"]


class Model(nn.Module):
    """An energy-based model of molecules.

    Forces are always minus the gradient of the energy; there is no other way to get them. ``noise`` comes from a vector
    head of its own. ``noise_level`` is read from pooled features: of its own head, or of a pooled energy.

    Args:
        backbone: gives the features of each atom.
        heads: by name, from :data:`HEADS`, or of properties.
        scope: what it was trained on.
        corrections: energies of a closed form that are added to its own.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        scope: Scope = ANYTHING,
        corrections: Sequence[Correction] = (),
    ) -> None:
        super().__init__()
        _check_heads(heads)
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))
        self.scope = scope
        self.corrections = nn.ModuleList(corrections)

    @property
    def offers(self) -> frozenset[str]:
        """Outputs of this model."""
        offered = frozenset(self.heads)
        if "energy" in offered:
            offered |= {"forces"}
        return offered | {"pooled_energy"} if self.has_pooled_energy else offered

    @property
    def has_pooled_energy(self) -> bool:
        """True if the energy is that of 3D-EMGP, which has no unit and is not a sum over atoms."""
        return "energy" in self.heads and self.energy_head().form == POOLED_ENERGY

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
            batch: Molecules; their labels are not used.
            outputs: Names from :data:`OUTPUTS`, and of properties.
            create_graph: Keep the graph of forces for the gradient of a force loss; by default in training mode.
            layout: Layout of neighbours; by default the one that suits the sizes in the batch.
        """
        wanted = frozenset(outputs)
        missing = wanted - self.offers
        if missing:
            raise ValueError(f"the model offers {sorted(self.offers)}, asked for {sorted(missing)}")
        if "noise_level" in wanted:
            raise ValueError("noise_level compares two batches; call model.noise_level(clean, noisy)")
        if "distance_score" in wanted:
            raise ValueError("distance_score needs pairs of atoms; call model.distance_score(batch, pairs, distances)")
        if "forces" not in wanted:
            return self._outputs(batch, wanted, layout)
        create_graph = self.training if create_graph is None else create_graph
        with torch.enable_grad():
            batch = batch.replace(positions=batch.positions.detach().requires_grad_())
            found = self._outputs(batch, (wanted - {"forces"}) | {"energy"}, layout)
            found["forces"] = self._forces(found["energy"], batch.positions, create_graph)
        return {key: value if create_graph else value.detach() for key, value in found.items() if key in wanted}

    def _outputs(self, batch: Batch, wanted: frozenset[str], layout: Layout) -> dict[str, Tensor]:
        features = self._features(batch, layout)
        found = self._read(features, batch, wanted)
        if "energy" in wanted:
            energy = self.heads["energy"](features, batch)
            for correction in self.corrections:
                energy = energy + correction(batch)
            found["energy"] = energy
        return found

    def _read(self, features: NodeFeatures, batch: Batch, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Return the outputs other than energy and forces."""
        found: dict[str, Tensor] = {}
        if "pooled_energy" in wanted:
            found["pooled_energy"] = self.energy_head().readout(features, batch)
        if "noise" in wanted:
            found["noise"] = self.heads["noise"](features, batch)
        return found | {name: head(features, batch) for name, head in self.properties.items() if name in wanted}

    def noise_level(
        self, clean: Batch, noisy: Batch, *, layout: Layout = neighbors_of
    ) -> Float[Tensor, "n_molecules n_levels"]:
        """Return the logits of the noise level between two batches of the same molecules."""
        if "noise_level" not in self.heads:
            raise ValueError(f"the model has no head for noise levels; it offers {sorted(self.offers)}")
        level = self.heads["noise_level"]
        pool = level if isinstance(level, PooledNoiseLevelHead) else self.energy_head().readout
        assert isinstance(pool, PooledNoiseLevelHead | PooledReadout)
        return level(*(pool.pool(self._features(batch, layout), batch) for batch in (clean, noisy)))

    def distance_score(
        self, batch: Batch, pairs: AtomPairs, distances: Float[Tensor, " n_pairs"], *, layout: Layout = neighbors_of
    ) -> Float[Tensor, " n_pairs"]:
        """Return the score of noised distances (Å) of pairs of atoms, in units of the noise, given the positions."""
        if "distance_score" not in self.heads:
            raise ValueError(f"the model has no head for distances; it offers {sorted(self.offers)}")
        return self.heads["distance_score"](self._features(batch, layout), pairs, distances)

    def embed(
        self,
        batch: Batch,
        level: EmbeddingLevel = "molecule",
        pooling: Pooling = "mean",
        *,
        layout: Layout = neighbors_of,
    ) -> Float[Tensor, " _ n_scalar"]:
        """Return rotation-invariant features of molecules, or of each atom, from the last layer.

        These are the scalar features of the backbone: also invariant under reflection, translation, the order of atoms
        (features of atoms are reordered with them) and the rest of the batch.

        Args:
            batch: Molecules; their labels are not used.
            level: Rows for molecules, or for atoms.
            pooling: Pooling of the atoms of a molecule.
            layout: Layout of neighbours, as in :meth:`forward`.
        """
        scalar = self._features(batch, layout).scalar
        if level == "atom":
            return scalar
        return mean_per_molecule(scalar, batch) if pooling == "mean" else sum_per_molecule(scalar, batch)

    def _features(self, batch: Batch, layout: Layout) -> NodeFeatures:
        return self.backbone(batch, self.backbone.lay_out(batch, layout))

    def _forces(self, energy: Tensor, positions: Tensor, create_graph: bool) -> Tensor:
        if positions.numel() == 0:
            return torch.zeros_like(positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph, materialize_grads=True)
        return -gradient

    def with_heads(self, **heads: Head | None) -> "Model":
        """Return a model on the same backbone with heads added, replaced or (``None``) dropped."""
        chosen = {name: head for name, head in (self.named_heads() | heads).items() if head is not None}
        return Model(self.backbone, chosen, self.scope, self.named_corrections())

    def with_corrections(self, *configs: ZBLConfig | D3Config) -> "Model":
        """Return a model with these corrections of its energy instead of those it has.

        The weights stay: a model trained without a correction changes wherever the correction acts.

        Raises:
            ValueError: the model has no energy in eV.
        """
        if configs and ("energy" not in self.heads or self.has_pooled_energy):
            raise ValueError(f"a correction is an energy in eV, and the model offers {sorted(self.offers)} without one")
        corrections = [build_correction(config) for config in configs]
        return Model(self.backbone, self.named_heads(), self.scope, corrections)

    def named_corrections(self) -> list[Correction]:
        """Return the corrections of the energy."""
        return [correction for correction in self.corrections if isinstance(correction, Correction)]

    def named_heads(self) -> dict[str, Head]:
        """Return the heads by name."""
        return {name: head for name, head in self.heads.items() if isinstance(head, Head)}

    def head_kinds(self) -> dict[str, HeadKind]:
        """Return the kind of each head, properties apart."""
        return {name: head.kind for name, head in self.named_heads().items() if head.kind != "property"}

    def forms(self) -> dict[str, PropertyForm]:
        """Return readout and unit of each property by name, the energy among them."""
        return {name: head.form for name, head in self.heads.items() if isinstance(head, PropertyHead)}

    @property
    def properties(self) -> dict[str, PropertyHead]:
        """Heads of properties by name, without the energy."""
        heads = self.heads.items()
        return {name: head for name, head in heads if isinstance(head, PropertyHead) and name != "energy"}

    def energy_head(self) -> PropertyHead:
        """Return the head of the energy.

        Raises:
            ValueError: there is none.
        """
        if "energy" not in self.heads:
            raise ValueError(f"the model has no energy; it offers {sorted(self.offers)}")
        head = self.heads["energy"]
        assert isinstance(head, PropertyHead)
        return head

    @property
    def energy_scale(self) -> PropertyScale:
        """Reference energies and scale of the energy, eV."""
        return self.energy_head().standard

    def property_head(self, name: str) -> PropertyHead:
        """Return the head of a property."""
        if name not in self.properties:
            raise ValueError(f"the model has no property {name!r}; it offers {sorted(self.offers)}")
        return self.properties[name]

    def noise_head(self) -> NoiseHead:
        """Return the head that predicts noise."""
        if "noise" not in self.heads:
            raise ValueError(f"the model has no noise head; it offers {sorted(self.offers)}")
        head = self.heads["noise"]
        assert isinstance(head, NoiseHead)
        return head

    def reset_target_normalizer(self) -> None:
        """Reset the statistics of the noise, for noise of another size."""
        self.noise_head().normalizer.reset()


def build_model_of(backbone: Backbone, kinds: Mapping[str, HeadKind], forms: Mapping[str, PropertyForm]) -> Model:
    """Return a model with fresh heads of the given kinds and properties of the given forms, by name."""
    heads: dict[str, Head] = {name: build_head(kind, backbone) for name, kind in kinds.items()}
    heads |= {name: build_property_head(form, backbone) for name, form in forms.items()}
    # In this order the parameters of a model stay in theirs, and with them sums over parameters (of a gradient norm).
    order = sorted(heads, key=lambda name: (name not in HEADS, name))
    return Model(backbone, {name: heads[name] for name in order})


def build_model(backbone: Backbone, outputs: Iterable[str]) -> Model:
    """Return a model with fresh heads for the requested outputs."""
    wanted = frozenset(outputs)
    unknown = wanted - OUTPUTS
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; choose from {sorted(OUTPUTS)}")
    return with_outputs(Model(backbone, {}), wanted)


def with_outputs(model: Model, outputs: Iterable[str]) -> Model:
    """Return a model with fresh heads for those requested outputs that it lacks.

    Noise levels share the pool of a pooled energy and bring their own beside any other.

    Raises:
        ValueError: the backbone has no vector features and a head needs them, or a pooled energy is asked of a model
            that has another energy.
    """
    missing = frozenset(outputs) - model.offers
    heads: dict[str, Head] = {}
    pooled = model.has_pooled_energy or "pooled_energy" in missing
    if "pooled_energy" in missing:
        if "energy" in model.heads:
            raise ValueError(
                "a pooled energy was asked for, and this model has an energy in eV; drop it first "
                "(model.with_heads(energy=None)), or start from fresh weights"
            )
        heads["energy"] = build_property_head(POOLED_ENERGY, model.backbone)
    elif "energy" not in model.heads and missing & {"energy", "forces"}:
        heads["energy"] = build_property_head(ENERGY, model.backbone)
    heads |= {name: build_head(name, model.backbone) for name in ("noise", "distance_score") if name in missing}
    if "noise_level" in missing:
        heads["noise_level"] = build_head("noise_level" if pooled else "pooled_noise_level", model.backbone)
    return model.with_heads(**heads)


def without_pretraining_heads(model: Model, outputs: Iterable[str]) -> Model:
    """Return the model without heads that only pre-training uses, except those for ``outputs``.

    The pooled energy of 3D-EMGP is such a head: it has no unit and is not a sum over atoms. Noise levels that share
    its pool go with it. Properties go too: a backbone that learns something else would leave their heads behind.
    """
    wanted = frozenset(outputs)
    ours = ("noise", "noise_level", "distance_score", *model.properties)
    dropped = {name for name in ours if name in model.heads.keys() - wanted}
    if model.has_pooled_energy and "pooled_energy" not in wanted:
        dropped.add("energy")
        if isinstance(model.named_heads().get("noise_level"), SharedNoiseLevelHead):
            dropped.add("noise_level")
    return model.with_heads(**dict.fromkeys(dropped))


def _check_heads(heads: Mapping[str, Head]) -> None:
    for name, head in heads.items():
        kind = HEADS.get(name, PropertyHead)
        if not isinstance(head, kind):
            raise ValueError(f"the head {name!r} must be of type {kind.__name__}, got {type(head).__name__}")
        if name == "energy" and head.form not in (ENERGY, POOLED_ENERGY):
            raise ValueError(f"the energy must be a sum over atoms in eV, or pooled without a unit; got {head.form}")
        if name not in HEADS:
            check_property_name(name)
    energy = heads.get("energy")
    if isinstance(heads.get("noise_level"), SharedNoiseLevelHead) and not (
        isinstance(energy, PropertyHead) and energy.form == POOLED_ENERGY
    ):
        raise ValueError(
            "a SharedNoiseLevelHead reads the pool of a pooled energy, and the energy of this model is "
            f"{'missing' if energy is None else 'in eV'}; drop the noise levels too "
            "(model.with_heads(noise_level=None)), or use a PooledNoiseLevelHead"
        )
