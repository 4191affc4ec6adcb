"""Energies and forces of a trained model, faster: filters from tables, and a network compiled for the sizes at hand."""

import copy
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from basinet.backbones.build import goes_by_pairs
from basinet.errors import RunError
from basinet.models.compiled import CompiledNetwork, Graph
from basinet.models.evaluator import What
from basinet.models.joint import Compiler, inductor, missing_compiler
from basinet.models.model import Model
from basinet.models.shapes import shapes_for
from basinet.models.tabulated import tabulated
from basinet.structures.batch import Batch
from basinet.structures.layouts import DENSE_LIMIT

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest difference of a compiled graph from the network, relative to the largest value."""


class EnergyForces(NamedTuple):
    """What is asked of a potential."""

    energy: Float[Tensor, " n_molecules"]
    """eV, float64."""
    forces: Float[Tensor, "n_atoms 3"]
    """eV/Å."""


class ToCome(NamedTuple):
    """Molecules that a potential will be asked about."""

    n_atoms: Int[np.ndarray, " n_molecules"]
    """Of each of them."""
    at_once: int
    """Molecules in a batch."""


class FastPotential:
    """Energies and forces of a copy of a model, for inference alone.

    A graph is compiled when a batch first asks for its size, and compared with the network before it is used; molecules
    larger than all that were expected, and what does not fill half a graph, are computed by the network itself.

    Args:
        model: trained, with an energy in eV.
        like: molecules like those to come: tables are certified on them.
        tables: whether filters are looked up (:mod:`basinet.models.tabulated`).
        compiler: of the network (:func:`compiler_for`); ``None``: it stays as it is.
        to_come: whose sizes and number graphs are compiled for; ``None``: those of ``like``.

    Raises:
        ValueError: the model has no energy in eV, its network has no filters for tables, or those are not good enough.
        RunError: when it is called, if what was compiled is not the network.
    """

    def __init__(
        self,
        model: Model,
        like: Batch,
        *,
        tables: bool = False,
        compiler: Compiler | None = None,
        to_come: ToCome | None = None,
    ) -> None:
        if "energy" not in model.offers or model.has_pooled_energy:
            raise ValueError(
                f"a potential has an energy in eV, and the model offers {sorted(model.offers)} without one"
            )
        weights = next(model.parameters())
        self.dtype, self.device = weights.dtype, weights.device
        self.notes: list[str] = []
        """What was found out about the tables, and what is not compiled."""
        if tables:
            if compiler is None and goes_by_pairs(model.backbone):
                self.notes.append("tables take the place of C++ kernels, which are faster; they pay when compiled")
            model, certificate = tabulated(model, like)
            self.notes.append(str(certificate))
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.network: CompiledNetwork | None = None
        shapes = shapes_for(*to_come or ToCome(like.atoms_per_molecule.cpu().numpy(), like.n_molecules))
        if compiler is not None and shapes is not None:
            self.network = CompiledNetwork(self.model, shapes, compiler, _compare)
        elif compiler is not None:
            self.notes.append(f"nothing is compiled: all molecules are of more than {DENSE_LIMIT} atoms")

    def __call__(self, batch: Batch) -> EnergyForces:
        """Return energies and forces, these in the dtype of the positions."""
        found = self.answers(batch, ["energy", "forces"])
        return EnergyForces(found["energy"], found["forces"].to(batch.positions.dtype))

    def answers(self, batch: Batch, outputs: Iterable[str]) -> dict[str, Tensor]:
        """Return the requested outputs of the model by name, in the dtype of its weights."""
        batch = batch.to(device=self.device, dtype=self.dtype)
        with self.model.evaluated_by(self.network), torch.enable_grad():
            found = self.model(batch, outputs, create_graph=self.network is not None)
        return {name: value.detach() for name, value in found.items()}


def compiler_for(device: torch.device) -> Compiler:
    """Return PyTorch's compiler for a device.

    Raises:
        RunError: it lacks something.
    """
    missing = missing_compiler(device)
    if missing is not None:
        raise RunError(
            f"a network cannot be compiled for {device.type} here: {missing} is missing; leave compiling out"
        )
    return inductor()


def _compare(network: CompiledNetwork, what: What, batch: Batch, make: Callable[[], Graph]) -> Graph:
    """Make a graph; raise a ``RunError`` unless it says what the network says."""
    graph = make()
    for found, expected in zip(network.by_graph(what, graph, batch), network.eager(what, batch), strict=True):
        size, apart = float(expected.detach().abs().max()), float((found - expected).detach().abs().max())
        if not apart <= TOLERANCE[batch.positions.dtype] * max(size, 1.0):
            raise RunError(
                f"the compiled network is {apart:.1e} from the network itself, of {size:.1e} at most; it is not used. "
                "Leave compiling out, and please report this with your versions of torch and of the compiler"
            )
    return graph
