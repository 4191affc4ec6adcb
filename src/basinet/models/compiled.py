"""The network of a model, compiled for molecules of a few sizes.

A batch is sorted by size and cut into chunks of so many molecules; each is padded to the smallest of a few sizes that
holds its largest molecule. So every chunk has one of a few shapes, and a graph for each is recorded and compiled once.
What does not fill half a chunk, or is larger than the largest size, goes the eager way. How a batch is cut depends on
its sizes alone: a run that goes on computes what the run that never stopped would have.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from basinet.backbones.base import Layout, NodeFeatures
from basinet.backbones.build import as_written, reads_bonds
from basinet.models.evaluator import Evaluator, Said, What
from basinet.models.joint import Compiler, Function, capture
from basinet.models.model import Model
from basinet.models.shapes import Shapes
from basinet.structures.batch import Batch
from basinet.structures.blocks import adjacency_blocks, place_in_molecule
from basinet.structures.dense import Blocks, DenseNeighbors
from basinet.structures.layouts import neighbors_of


class Chunk(NamedTuple):
    """Some molecules of a batch."""

    molecules: Int[Tensor, " n_chosen"]
    size: int | None
    """Atoms they are padded to; ``None``: they are not, and go the eager way."""


def cut(n_atoms: Sequence[int], shapes: Shapes) -> list[Chunk]:
    """Cut molecules of given numbers of atoms into chunks, the largest first."""
    order = sorted(range(len(n_atoms)), key=lambda i: -n_atoms[i])
    fitting = [i for i in order if n_atoms[i] <= shapes.sizes[-1]]
    eager = order[: len(order) - len(fitting)]
    chunks: list[Chunk] = []
    for start in range(0, len(fitting), shapes.n_molecules):
        members = fitting[start : start + shapes.n_molecules]
        if 2 * len(members) < shapes.n_molecules:
            eager += members
        else:
            size = next(s for s in shapes.sizes if s >= n_atoms[members[0]])
            chunks.append(Chunk(torch.tensor(members), size))
    return [*chunks, Chunk(torch.tensor(eager), None)] if eager else chunks


class Padded(NamedTuple):
    """A chunk with an atom in every place of its blocks; those of padding belong to one more molecule."""

    atomic_numbers: Int[Tensor, " n_places"]
    positions: Float[Tensor, "n_places 3"]
    molecule: Int[Tensor, " n_places"]
    is_atom: Bool[Tensor, "n_blocks n_max"]
    bonded: Bool[Tensor, "n_blocks n_max n_max"] | None

    @staticmethod
    def of(batch: Batch, n_molecules: int, size: int, *, bonds: bool) -> "Padded":
        """Pad a batch to so many molecules of so many atoms."""
        place = places(batch, size)
        n = n_molecules * size
        adjacency = None
        if bonds:
            known = adjacency_blocks(batch)
            adjacency = known.new_zeros(n_molecules, size, size)
            adjacency[: len(known), : known.shape[1], : known.shape[1]] = known
        return Padded(
            batch.atomic_numbers.new_zeros(n).index_put((place,), batch.atomic_numbers),
            batch.positions.new_zeros(n, 3).index_put((place,), batch.positions.detach()),
            batch.molecule.new_full((n,), n_molecules).index_put((place,), batch.molecule),
            torch.zeros(n, dtype=torch.bool, device=place.device)
            .index_fill(0, place, True)
            .unflatten(0, (n_molecules, size)),
            adjacency,
        )

    def batch(self) -> Batch:
        """Return the padded molecules; the last one is the padding."""
        numbers, positions, molecule = self.atomic_numbers, self.positions, self.molecule
        return Batch(atomic_numbers=numbers, positions=positions, molecule=molecule, n_molecules=len(self.is_atom) + 1)

    def layout(self, batch: Batch, cutoff: float | None) -> DenseNeighbors:
        """Return the neighbours of the padded molecules."""
        return DenseNeighbors(batch, cutoff, Blocks(self.is_atom, self.bonded))


def places(batch: Batch, size: int) -> Int[Tensor, " n_atoms"]:
    """Return where each atom is among those of padded blocks."""
    return batch.molecule * size + place_in_molecule(batch)


class Network(nn.Module):
    """The part of a model that is compiled: what lies between positions and energies, forces or features."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.energy = model.named_heads().get("energy")

    def forward(self, batch: Batch, layout: Layout, what: What) -> tuple[Tensor, ...]:
        """Return, of energies, forces, scalar and vector features, those that are asked for."""
        if what == "features":
            return self.backbone(batch, self.backbone.lay_out(batch, layout))
        assert self.energy is not None
        batch = batch.replace(positions=batch.positions.detach().requires_grad_())
        features = self.backbone(batch, self.backbone.lay_out(batch, layout))
        energy = self.energy(features, batch)
        (gradient,) = torch.autograd.grad(energy.sum(), batch.positions, create_graph=True, materialize_grads=True)
        asked = {"energy": (energy,), "forces": (-gradient,), "features": features}
        return tuple(x for name, values in asked.items() if name in what for x in values)

    def double(self) -> "Network":
        """Return a copy in float64."""
        return copy.deepcopy(self).to(torch.float64)


class Graph(NamedTuple):
    """A network compiled for one shape."""

    n_molecules: int
    size: int
    run: Function


Accept = Callable[["CompiledNetwork", What, Batch, Callable[[], Graph]], Graph | None]
"""Makes a graph, with a batch of its first use at hand, and decides whether it may be used; ``None``: eager PyTorch."""


def accept_all(network: "CompiledNetwork", what: What, batch: Batch, make: Callable[[], Graph]) -> Graph:
    """Make a graph and trust it."""
    return make()


class CompiledNetwork(Evaluator):
    """Evaluates the network of a model by compiled graphs, each made when a batch first asks for it.

    Args:
        model: whose network it is; its parameters and buffers may change in place afterwards, their
            ``requires_grad`` may not.
        shapes: that batches are cut to.
        compiler: of the graphs.
        accept: decides about each graph before it is used.
    """

    def __init__(self, model: Model, shapes: Shapes, compiler: Compiler, accept: Accept = accept_all) -> None:
        self.network = Network(model)
        self.shapes, self.graphs = shapes, dict[tuple[What, int], Graph | None]()
        self._compiler, self._accept = compiler, accept
        self._bonds = reads_bonds(model.backbone)
        tensors = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        self._names, self._tensors = list(tensors), list(tensors.values())

    def evaluate(self, what: What, batch: Batch) -> Said:
        """Return what was asked for."""
        found = list(self._evaluate(what, batch))
        return Said(
            energy=found.pop(0) if "energy" in what else None,
            forces=found.pop(0) if "forces" in what else None,
            features=NodeFeatures(*found) if "features" in what else None,
        )

    def eager(self, what: What, batch: Batch) -> tuple[Tensor, ...]:
        """Return what a graph would, computed by the network itself."""
        return self.network(batch, neighbors_of, what)

    def by_graph(self, what: What, graph: Graph, batch: Batch) -> tuple[Tensor, ...]:
        """Return what a graph says of a batch that fits into its shape."""
        padded = Padded.of(batch, graph.n_molecules, graph.size, bonds=self._bonds)
        found = graph.run(*self._tensors, *(x for x in padded if x is not None))
        place, molecules = places(batch, graph.size), torch.arange(batch.n_molecules, device=batch.molecule.device)
        rows = [molecules] * ("energy" in what) + [place] * len(found)
        return tuple(x[r] for x, r in zip(found, rows, strict=False))

    def _evaluate(self, what: What, batch: Batch) -> tuple[Tensor, ...]:
        chunks = cut(batch.atoms_per_molecule.tolist(), self.shapes)
        bare = Batch(
            atomic_numbers=batch.atomic_numbers,
            positions=batch.positions,
            molecule=batch.molecule,
            n_molecules=batch.n_molecules,
            topology=batch.topology if self._bonds else None,
        )
        if not chunks:
            return self.eager(what, bare)
        found = [self._of_chunk(what, bare.select(chunk.molecules), chunk.size) for chunk in chunks]
        return tuple(
            torch.cat(parts)[back]
            for parts, back in zip(zip(*found, strict=True), _ways_back(what, bare, chunks), strict=False)
        )

    def _of_chunk(self, what: What, batch: Batch, size: int | None) -> tuple[Tensor, ...]:
        if size is None:
            return self.eager(what, batch)
        if (what, size) not in self.graphs:
            self.graphs[what, size] = self._accept(self, what, batch, lambda: self._make(what, batch, size))
        graph = self.graphs[what, size]
        return self.eager(what, batch) if graph is None else self.by_graph(what, graph, batch)

    def _make(self, what: What, batch: Batch, size: int) -> Graph:
        n_tensors, names, network = len(self._tensors), self._names, self.network

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            padded = Padded(*tensors[n_tensors:], *([] if self._bonds else [None]))  # pyright: ignore[reportArgumentType]
            state = dict(zip(names, tensors[:n_tensors], strict=True))
            return tuple(functional_call(network, state, (padded.batch(), padded.layout, what)))

        n_molecules = self.shapes.n_molecules
        padded = Padded.of(batch, n_molecules, size, bonds=self._bonds)
        examples = [*self._tensors, *(x for x in padded if x is not None)]
        with as_written(network.backbone):
            return Graph(n_molecules, size, capture(function, examples, self._compiler))


def _ways_back(what: What, batch: Batch, chunks: Sequence[Chunk]) -> Iterator[Int[Tensor, " n_rows"]]:
    """Yield, for each output, the row that each molecule or atom of a batch has among those of the chunks."""
    molecules = torch.cat([chunk.molecules for chunk in chunks]).to(batch.molecule.device)
    marked = batch.replace(ids=torch.arange(batch.n_molecules, device=batch.molecule.device), topology=None)
    marked = marked.replace(labels={"forces": torch.arange(batch.n_atoms, device=batch.molecule.device)})
    atoms = torch.argsort(marked.select(molecules).labels["forces"])
    if "energy" in what:
        yield torch.argsort(molecules)
    yield from itertools.repeat(atoms)
