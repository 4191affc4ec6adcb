"""A trained Equivariant Transformer whose radial filters are looked up: the same function to a stated error, faster."""

import copy
from typing import NamedTuple

import torch

from basinet.backbones.equivariant_transformer import EquivariantTransformer
from basinet.models.model import Model
from basinet.nn.table import RadialTable, TableError, tabulate
from basinet.structures.batch import Batch

FILTER_TOLERANCE = 1e-6
"""Largest error of a filter between knots, relative to its largest value: what float32 rounds off anyway."""
FORCE_THRESHOLD = 1e-4
"""eV/Å. Tables that change a force by more are refused."""


class TableCertificate(NamedTuple):
    """What tables were found to change."""

    filters: TableError
    """The worst of all tables."""
    forces: float
    """Largest change of a force component, eV/Å."""
    energies: float
    """Largest change of an energy, eV."""
    n_molecules: int
    """On which energies and forces were compared."""

    def __str__(self) -> str:
        molecules = "1 molecule" if self.n_molecules == 1 else f"{self.n_molecules} molecules"
        return (
            f"filters from tables of up to {self.filters.n_knots} knots, exact to {self.filters.value:.0e} of the "
            f"largest; on {molecules} forces changed by up to {self.forces:.1e} eV/Å, energies by up to "
            f"{self.energies:.1e} eV"
        )


class Tabulated(NamedTuple):
    """A model with tables, for inference, and how far it is from the model it was made of."""

    model: Model
    certificate: TableCertificate


def tabulated(
    model: Model,
    check: Batch,
    *,
    filter_tolerance: float = FILTER_TOLERANCE,
    force_threshold: float = FORCE_THRESHOLD,
) -> Tabulated:
    """Return a copy of a model that looks its radial filters up in tables of exp(-r), and the error of that.

    The copy is on the device and in the dtype of the model, in evaluation mode; it cannot be trained, and it is saved
    as the model that it was made of.

    Args:
        model: with an Equivariant Transformer and an energy.
        check: molecules on which energies and forces are compared.
        filter_tolerance: relative to the largest value of a filter.
        force_threshold: eV/Å.

    Raises:
        ValueError: the model has no such filters or no energy, or its forces change by more than the threshold.
    """
    backbone = tabulable(model)
    exact = copy.deepcopy(model).eval()
    like = next(model.parameters())
    fast = copy.deepcopy(exact)
    tables, errors = _tables_of(backbone, filter_tolerance)
    assert isinstance(fast.backbone, EquivariantTransformer)
    fast.backbone.use_tables([table.to(dtype=like.dtype).eval() for table in tables])
    certificate = _certified(exact, fast, check.to(device=like.device, dtype=like.dtype), errors)
    if not certificate.forces <= force_threshold:
        raise ValueError(
            f"tables would change forces too much: {certificate}; {force_threshold:.1e} eV/Å is allowed. Ask for a "
            "smaller filter_tolerance, or use the model as it is"
        )
    return Tabulated(fast, certificate)


def tabulable(model: Model) -> EquivariantTransformer:
    """Return the network of a model if its filters can be looked up.

    Raises:
        ValueError: it has no such filters, or no energy.
    """
    if not isinstance(model.backbone, EquivariantTransformer):
        raise ValueError(
            "tables are for the filters of an Equivariant Transformer, which are functions of the distance alone, and "
            f"this network is {type(model.backbone).__name__}; use it as it is"
        )
    if "energy" not in model.offers or model.has_pooled_energy:
        raise ValueError(f"tables are certified by forces, and the model offers {sorted(model.offers)} without them")
    return model.backbone


def _tables_of(backbone: EquivariantTransformer, tolerance: float) -> tuple[list[RadialTable], TableError]:
    """Return a table for each function of the distance, float64, and the worst error."""
    device = next(backbone.parameters()).device
    functions = copy.deepcopy(backbone).eval().filter_functions()
    made = [tabulate(function, backbone.config.cutoff, tolerance, device) for function in functions]
    errors = [error for _, error in made]
    worst = TableError(*(max(column) for column in zip(*errors, strict=True)))
    return [table for table, _ in made], worst


def _certified(exact: Model, fast: Model, check: Batch, errors: TableError) -> TableCertificate:
    found, expected = (m(check, ["energy", "forces"], create_graph=False) for m in (fast, exact))
    apart = {key: (found[key] - expected[key]).abs() for key in found}
    largest = {key: float(x.max()) if torch.isfinite(x).all() and x.numel() else 0.0 for key, x in apart.items()}
    if not all(torch.isfinite(x).all() for x in apart.values()):
        raise ValueError("energies or forces of the molecules to compare on are not finite; nothing can be certified")
    return TableCertificate(errors, largest["forces"], largest["energy"], check.n_molecules)
