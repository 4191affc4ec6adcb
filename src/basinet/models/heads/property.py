r"""Predict a property of a molecule, such as its energy: a readout of atomic features, then a scale.

The readout turns the features of atoms into one raw number per molecule; :class:`PropertyScale`, fitted to the labels
and not trained, turns that into the property. The readouts are those of TorchMD-NET and 3D-EMGP on QM9:

==================  ===================================================  =============================
readout             raw number                                           published as
==================  ===================================================  =============================
``sum``             :math:`\sum_i x_i`                                   TorchMD-NET, ``Scalar``
``mean``            :math:`\frac1N \sum_i x_i`                           the same with ``reduce_op mean``
``pooled``          :math:`\mathrm{MLP}_2(\sum_i \mathrm{MLP}_1(h_i))`   3D-EMGP
``dipole``          :math:`\|\sum_i q_i (r_i - r_0) + \mu_i\|`           TorchMD-NET, ``DipoleMoment``
``spatial_extent``  :math:`\sum_i q_i \|r_i - r_0\|^2`                   TorchMD-NET, ``ElectronicSpatialExtent``
==================  ===================================================  =============================

:math:`r_0` is the centre of mass: the dipole moment of an ion depends on the origin.
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from basinet.backbones.base import Backbone, NodeFeatures
from basinet.models.heads.base import GatedOutputs, Head, two_layers
from basinet.nn.equivariant import safe_norm
from basinet.nn.modules import ExactBuffers
from basinet.structures.batch import Batch
from basinet.structures.molecule import N_ELEMENTS
from basinet.structures.segment import from_centre_of_mass, mean_per_molecule, sum_per_molecule
from basinet.units import property_unit

ReadoutKind = Literal["sum", "mean", "pooled", "dipole", "spatial_extent"]
"""From the features of atoms to one number."""

RESERVED = frozenset({"energy", "forces", "noise", "noise_level"})
"""Names of outputs with losses of their own, not open to further properties."""


class PropertyForm(NamedTuple):
    """Readout and unit of a property."""

    readout: ReadoutKind
    unit: str
    """In the package, from :data:`basinet.units.PROPERTY`."""


ENERGY = PropertyForm("sum", "eV")
"""A sum of atomic energies: two molecules far apart have the sum of their energies."""
POOLED_ENERGY = PropertyForm("pooled", "1")
"""The pre-training energy of 3D-EMGP (Jiao et al., AAAI 2023), which has no unit and is not a sum over atoms."""


def check_property_name(name: str) -> None:
    """Raise a ``ValueError`` if a further property cannot have this name."""
    if name in RESERVED:
        raise ValueError(
            f"a property cannot be called {name!r}, which has losses of its own (objective.kind=energy_forces); to "
            f"learn it as a property, choose another name and give its column (units.property_key={name})"
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


REDUCTIONS = {"sum": sum_per_molecule, "mean": mean_per_molecule, "spatial_extent": spatial_extent}
"""Readouts of one scalar per atom."""


class AtomScalars(nn.Module):
    """A scalar for each atom: from gated blocks, or from two layers where the backbone has no vectors."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        gated = backbone.n_vector > 0
        self.gated = GatedOutputs(backbone.n_scalar, backbone.n_vector) if gated else None
        self.plain = None if gated else two_layers(backbone.n_scalar, backbone.n_scalar, 1)

    def forward(self, features: NodeFeatures) -> Float[Tensor, " n_atoms"]:
        """Return the scalars."""
        if self.gated is not None:
            return self.gated(features)[0]
        assert self.plain is not None
        return self.plain(features.scalar)[:, 0]


class Readout(nn.Module, ABC):
    """From the features of atoms to one raw number per molecule, float64."""

    @abstractmethod
    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the raw numbers."""


class ScalarReadout(Readout):
    """A sum, mean or second moment of atomic scalars."""

    def __init__(self, kind: ReadoutKind, backbone: Backbone) -> None:
        super().__init__()
        self.reduce = REDUCTIONS[kind]
        self.atoms = AtomScalars(backbone)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the raw numbers."""
        return self.reduce(self.atoms(features).double(), batch)


class PooledReadout(Readout):
    """A function of a sum over atoms, for scalar features (3D-EMGP)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        n = backbone.n_scalar
        self.atomic = two_layers(n, n, n)
        self.of_pool = two_layers(n, n, 1)

    def pool(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, "n_molecules n_scalar"]:
        """Return the summed features of each molecule."""
        return sum_per_molecule(self.atomic(features.scalar), batch)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the raw numbers."""
        return self.of_pool(self.pool(features, batch))[:, 0].double()


class DipoleReadout(Readout):
    """The length of the dipole moment of atomic charges and atomic dipoles (:func:`dipole_moment`)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        if backbone.n_vector == 0:
            raise ValueError(
                f"{type(backbone).__name__} has no vector features, and the dipole readout needs them; choose "
                "readout=sum or pooled (3D-EMGP has no other for dipoles), or a backbone with vector features"
            )
        self.atoms = GatedOutputs(backbone.n_scalar, backbone.n_vector)

    def forward(self, features: NodeFeatures, batch: Batch) -> Float[Tensor, " n_molecules"]:
        """Return the lengths; below 1e-3 they are rounded off, so that a moment of zero has a gradient."""
        charges, local = self.atoms(features)
        return safe_norm(dipole_moment(charges, local, batch)[:, :, None])[:, 0]


class PropertyScale(ExactBuffers):
    r"""Turn the raw number of a molecule into its property.

    .. math:: y = s\,x + \bar y + \sum_i y_0(Z_i)

    ===================  =====================================================================
    :math:`s`            ``scale``: unit of the property
    :math:`\bar y`       ``shift``; zero for an energy
    :math:`y_0`          ``references``: contribution of an atom of each element; for an energy
                         the reference energies, eV
    ===================  =====================================================================

    float64, because a total energy of some thousand eV does not fit into float32.
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
        baseline = self.shift + sum_per_molecule(self.references[batch.atomic_numbers], batch)
        return self.scale * raw.double() + baseline


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
        case "pooled":
            return PooledReadout(backbone)
        case "dipole":
            return DipoleReadout(backbone)
        case _:
            return ScalarReadout(kind, backbone)


def build_property_head(form: PropertyForm, backbone: Backbone) -> PropertyHead:
    """Return a fresh head on the device and in the dtype of a backbone."""
    return PropertyHead(form, backbone).to(next(backbone.parameters()))
