"""Measure the error of an implementation of the edge stage, on a device and in a precision."""

from collections.abc import Callable, Iterable

import torch

from basinet.speed import pair_stage
from basinet.speed.differentiable import PLAIN, EdgeStage, Inputs
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs
from basinet.speed.pair_stage import PairInputs
from basinet.structures.sparse import PairList


def random_inputs(n_molecules: int, n: int, n_features: int, generator: torch.Generator) -> EdgeInputs:
    """Return random inputs of the edge stage, in float64."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    atoms = [draw(n_molecules, n, n_features) for _ in range(4)]
    query, key, scalar, directed = atoms
    vector, unit = draw(n_molecules, n, 3, n_features), draw(n_molecules, n, 3, n)
    filters = draw(n_molecules, n * (n - 1) // 2 + 1, 4, n_features)
    return EdgeInputs(query, key, scalar, vector, directed, filters, unit)


def all_pairs(n_molecules: int, n: int) -> PairList:
    """Return the list of all pairs of molecules of n atoms, one chunk for each molecule."""
    molecule = torch.arange(n_molecules)[:, None]
    first, second = (molecule * n + atom for atom in torch.triu_indices(n, n, offset=1))
    bounds = torch.arange(n_molecules + 1)
    return PairList(first.flatten(), second.flatten(), bounds * (n * (n - 1) // 2), bounds * n)


def random_pair_inputs(pairs: PairList, n_atoms: int, n_features: int, generator: torch.Generator) -> PairInputs:
    """Return random inputs of the edge stage over pairs, in float64."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    query, key, scalar, directed = (draw(n_atoms, n_features) for _ in range(4))
    n_pairs = len(pairs.first)
    filters, fades = draw(n_pairs + 1, 4, n_features), draw(n_pairs + 1, 4)
    return PairInputs(query, key, scalar, draw(n_atoms, 3, n_features), directed, filters, fades, draw(n_pairs, 3))


def largest_pair_error(
    of_pairs: Callable[[PairList], EdgeStage[PairInputs]],
    *,
    n_molecules: int = 2,
    n: int = 9,
    n_features: int,
    n_heads: int,
    dtype: torch.dtype,
) -> float:
    """Return the largest relative error of messages over pairs and their derivatives against autograd in float64."""
    generator = torch.Generator().manual_seed(0)
    pairs = all_pairs(n_molecules, n)
    inputs, tangents = (random_pair_inputs(pairs, n_molecules * n, n_features, generator) for _ in range(2))
    leaves = PairInputs(*(x.requires_grad_() for x in inputs))
    messages = pair_stage.forward(pairs, leaves, n_heads)
    grads = [torch.randn(x.shape, generator=generator, dtype=x.dtype).requires_grad_() for x in messages]
    # Of numbers: for derivatives of tensors torch imports a library of symbols, half a second.
    first = torch.autograd.grad(_product(messages, grads), leaves, create_graph=True)
    second = torch.autograd.grad(_product(first, tangents), [*leaves, *grads], materialize_grads=True)
    inputs, tangents = (PairInputs(*(x.detach().to(dtype) for x in group)) for group in (inputs, tangents))
    of_messages, stage = EdgeOutputs(*(g.detach().to(dtype) for g in grads)), of_pairs(pairs)
    return _furthest(_all(stage, inputs, of_messages, tangents, n_heads), [*messages, *first, *second])


def largest_error(
    edge_stage: EdgeStage[EdgeInputs],
    *,
    n_molecules: int = 2,
    n: int = 19,
    n_features: int,
    n_heads: int,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Return the largest relative error of messages and their derivatives against the formulas in float64 on the CPU.

    Each tensor relative to its largest value: of random inputs, the messages, their gradients, and the gradients of
    these.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, tangents = (random_inputs(n_molecules, n, n_features, generator) for _ in range(2))
    grads = EdgeOutputs(*(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (inputs[0], inputs[3])))
    expected = _all(PLAIN, inputs, grads, tangents, n_heads)
    inputs, tangents = (EdgeInputs(*(x.to(device, dtype) for x in group)) for group in (inputs, tangents))
    ours = _all(edge_stage, inputs, EdgeOutputs(*(x.to(device, dtype) for x in grads)), tangents, n_heads)
    return _furthest(ours, expected)


def _product(these: Iterable[torch.Tensor], those: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(these, those, strict=True)]).sum()


def _furthest(ours: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> float:
    apart = [(a.cpu().double() - b.detach(), b.detach()) for a, b in zip(ours, expected, strict=True) if b.numel()]
    return max(float(difference.abs().max() / value.abs().max()) for difference, value in apart)


def _all(
    edge_stage: EdgeStage[Inputs], inputs: Inputs, grads: EdgeOutputs, tangents: Inputs, n_heads: int
) -> list[torch.Tensor]:
    of_inputs, of_grads = edge_stage.double_backward(inputs, grads, tangents, n_heads)
    return [*edge_stage.forward(inputs, n_heads), *edge_stage.backward(inputs, grads, n_heads), *of_inputs, *of_grads]
