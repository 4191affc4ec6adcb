r"""Heads for a property of a molecule, one number each, and what is fitted to its labels rather than trained.

A readout turns the features of atoms into one raw number per molecule; :class:`PropertyScale` turns that into the
property. Both are what TorchMD-NET and 3D-EMGP do on QM9:

==================  ===================================================  =============================
readout             raw number                                           published as
==================  ===================================================  =============================
``sum``             :math:`\sum_i x_i`                                   TorchMD-NET, ``Scalar``
``mean``            :math:`\frac1N \sum_i x_i`                           the same with ``reduce_op mean``
``pooled``          :math:`\mathrm{MLP}_2(\sum_i \mathrm{MLP}_1(h_i))`   3D-EMGP
``dipole``          :math:`\|\sum_i q_i (r_i - r_0) + \mu_i\|`           TorchMD-NET, ``DipoleMoment``
``spatial_extent``  :math:`\sum_i q_i \|r_i - r_0\|^2`                   TorchMD-NET, ``ElectronicSpatialExtent``
==================  ===================================================  =============================

:math:`r_0` is the centre of mass. The dipole moment of an ion depends on the origin, and this is the one.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from basinet.backbones.base import Backbone, NodeFeatures
from basinet.models.heads.basic import Head, two_layers
from basinet.nn.equivariant import GatedEquivariantBlock, safe_norm
from basinet.nn.exact import ExactBuffers
from basinet.structures.batch import Batch
from basinet.structures.molecule import N_ELEMENTS
from basinet.structures.segment import from_centre_of_mass, mean_per_molecule, sum_per_molecule
from basinet.units import property_unit

ReadoutKind = Literal["sum", "mean", "pooled", "dipole", "spatial_extent"]
"""How the features of atoms become one number."""

RESERVED = frozenset({"energy", "forces", "noise", "noise_level"})
"""Outputs that are no properties: they have heads, units and losses of their own."""


def check_property_name(name: str) -> None:
    """Raise a ``ValueError`` if a property cannot be called so."""
    if name in RESERVED:
        raise ValueError(
            f"a property cannot be called {name!r}, which has a head and losses of its own (objective.kind="
            f"energy_forces); to learn it as a property, call it otherwise and name its column (units.property_key="
            f"{name})"
        )
    if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
        raise ValueError(f"a property needs a name of letters, digits and _ that Python has no use for, got {name!r}")


def dipole_moment(
    charges: Float[Tensor, " n_atoms"], local: Float[Tensor, "n_atoms 3"], batch: Batch
) -> Float[Tensor, "n_molecules 3"]:
    """Return the moment of atomic charges (e) and atomic dipoles (e Å) about the centre of mass, e Å, float64."""
    return sum_per_molecule(charges.double()[:, None] * from_centre_of_mass(batch) + local.double(), batch)


def spatial_extent(charges: Float[Tensor, " n_atoms"], batch: Batch) -> Float[Tensor, " n_molecules"]:
    """Return the second moment of atomic charges about the centre of mass, Å² (charges in e), float64."""
    return sum_per_molecule(charges.double() * from_centre_of_mass(batch).square().sum(-1), batch)


class AtomOutputs(nn.Module):
    """A scalar and a vector for each atom from two gated blocks (TorchMD-NET's equivariant outputs)."""

    def __init__(self, n_scalar: int, n_vector: int) -> None:
        super().__init__()
        self.first = GatedEquivariantBlock(n_scalar, n_scalar // 2, n_vector=n_vector, activate=True)
        self.second = GatedEquivariantBlock(n_scalar // 2, 1, activate=False)

    def forward(self, features: NodeFeatures) -> tuple[Float[Tensor, " n_atoms"], Float[Tensor, "n_atoms 3"]]:
        """Return the scalars and the vectors."""
        scalar, vector = self.second(*self.first(features.scalar, features.vector))
        return scalar[:, 0], vector[..., 0]


class AtomScalars(nn.Module):
    """A scalar for each atom: from gated blocks, or from two layers where the backbone has no vectors."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        gated = backbone.n_vector > 0
        self.gated = AtomOutputs(backbone.n_scalar, backbone.n_vector) if gated else None
        self.plain = None if gated else two_layers(backbone.n_scalar, backbone.n_scalar, 1)

    def forward(self, features: NodeFeatures) -> Float[Tensor, " n_atoms"]:
        """Return the scalars."""
        if self.gated is not None:
            return self.gated(features)[0]
        assert self.plain is not None
        return self.plain(features.scalar)[:, 0]


class Readout(nn.Module, ABC):
    """From the features of atoms to one raw number per molecule, float64."""

    kind: ClassVar[ReadoutKind]

    @abstractmethod
    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the raw numbers."""


class SumReadout(Readout):
    """A sum over atoms: two molecules far apart have the sum of their properties."""

    kind = "sum"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.atoms = AtomScalars(backbone)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the sums."""
        return sum_per_molecule(self.atoms(features).double(), batch)


class MeanReadout(Readout):
    """A mean over atoms: two copies of a molecule have the property of one."""

    kind = "mean"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.atoms = AtomScalars(backbone)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the means."""
        return mean_per_molecule(self.atoms(features).double(), batch)


class PooledReadout(Readout):
    """A function of a sum over atoms, for scalar features (3D-EMGP, its head for every target of QM9)."""

    kind = "pooled"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        n = backbone.n_scalar
        self.atomic = two_layers(n, n, n)
        self.of_pool = two_layers(n, n, 1)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the numbers."""
        return self.of_pool(sum_per_molecule(self.atomic(features.scalar), batch))[:, 0].double()


class DipoleReadout(Readout):
    """The length of the dipole moment of atomic charges and atomic dipoles (:func:`dipole_moment`)."""

    kind = "dipole"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        if backbone.n_vector == 0:
            raise ValueError(
                f"{type(backbone).__name__} has no vector features, and the dipole readout needs them; choose "
                "readout=sum or pooled (3D-EMGP has no other for dipoles), or a backbone with vector features"
            )
        self.atoms = AtomOutputs(backbone.n_scalar, backbone.n_vector)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the lengths; below 1e-3 they are rounded off, so that a moment of zero has a gradient."""
        charges, local = self.atoms(features)
        return safe_norm(dipole_moment(charges, local, batch)[:, :, None])[:, 0]


class SpatialExtentReadout(Readout):
    """The second moment of atomic charges (:func:`spatial_extent`)."""

    kind = "spatial_extent"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.atoms = AtomScalars(backbone)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the moments."""
        return spatial_extent(self.atoms(features), batch)


class PropertyScale(ExactBuffers):
    r"""Turn the raw number of a molecule into its property.

    .. math:: y = s\,x + \bar y + \sum_i y_0(Z_i)

    Scale :math:`s`, shift :math:`\bar y` and the contributions :math:`y_0` of the elements are fitted to the training
    labels and not trained; float64, because a total energy does not fit into float32.
    """

    references: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("references", torch.zeros(N_ELEMENTS, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, raw: Float[Tensor, " n_molecules"], batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the property of each molecule, float64."""
        return self.scale * raw.double() + self.baseline(batch)

    def baseline(self, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return what is known without the network."""
        return self.shift + sum_per_molecule(self.references[batch.atomic_numbers], batch)


class PropertyForm(NamedTuple):
    """What a property head is, beside its weights."""

    readout: ReadoutKind
    unit: str
    """In the package, from :data:`basinet.units.PROPERTY`."""


class PropertyHead(Head):
    """One property of a molecule, under its name in ``Model.heads``.

    Args:
        form: readout and unit.
        backbone: whose features are read.

    Raises:
        ValueError: the readout needs vector features and the backbone has none, or the unit is not one of the package.
    """

    kind = "property"

    def __init__(self, form: PropertyForm, backbone: Backbone) -> None:
        super().__init__()
        if property_unit(form.unit) != form.unit:
            raise ValueError(
                f"a model gives properties in the units of the package; got {form.unit!r}, expected "
                f"{property_unit(form.unit)!r}"
            )
        self.form = form
        self.readout = build_readout(form.readout, backbone)
        self.standard = PropertyScale()

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the property of each molecule in ``form.unit``, float64."""
        return self.standard(self.readout(features, batch), batch)


def build_readout(kind: ReadoutKind, backbone: Backbone) -> Readout:
    """Return a fresh readout for the features of a backbone."""
    match kind:
        case "sum":
            return SumReadout(backbone)
        case "mean":
            return MeanReadout(backbone)
        case "pooled":
            return PooledReadout(backbone)
        case "dipole":
            return DipoleReadout(backbone)
        case "spatial_extent":
            return SpatialExtentReadout(backbone)


def build_property_head(form: PropertyForm, backbone: Backbone) -> PropertyHead:
    """Return a fresh head on the device and in the dtype of a backbone."""
    return PropertyHead(form, backbone).to(next(backbone.parameters()))
