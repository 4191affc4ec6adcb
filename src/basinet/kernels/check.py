"""Whether an implementation of the edge stage computes the edge stage, on the device and in the precision at hand."""

import torch

from basinet.kernels.differentiable import PLAIN, EdgeStage
from basinet.kernels.edge_stage import EdgeInputs, EdgeOutputs


def random_inputs(n_molecules: int, n: int, n_features: int, generator: torch.Generator) -> EdgeInputs:
    """Return inputs of the edge stage with nothing special about them, in float64."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    atoms = [draw(n_molecules, n, n_features) for _ in range(4)]
    query, key, scalar, directed = atoms
    vector, unit = draw(n_molecules, n, 3, n_features), draw(n_molecules, n, 3, n)
    filters = draw(n_molecules, n * (n - 1) // 2 + 1, 4, n_features)
    return EdgeInputs(query, key, scalar, vector, directed, filters, unit)


def largest_error(
    edge_stage: EdgeStage,
    *,
    n_molecules: int = 2,
    n: int = 19,
    n_features: int,
    n_heads: int,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Return how far messages and their derivatives are from the formulas in float64 on the CPU.

    Each tensor relative to its largest value: of random inputs, the messages, their gradients, and the gradients of
    these.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, tangents = (random_inputs(n_molecules, n, n_features, generator) for _ in range(2))
    grads = EdgeOutputs(*(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (inputs[0], inputs[3])))
    expected = _all(PLAIN, inputs, grads, tangents, n_heads)
    inputs, tangents = (EdgeInputs(*(x.to(device, dtype) for x in group)) for group in (inputs, tangents))
    ours = _all(edge_stage, inputs, EdgeOutputs(*(x.to(device, dtype) for x in grads)), tangents, n_heads)
    return max(float((a.cpu().double() - b).abs().max() / b.abs().max()) for a, b in zip(ours, expected, strict=True))


def _all(
    edge_stage: EdgeStage, inputs: EdgeInputs, grads: EdgeOutputs, tangents: EdgeInputs, n_heads: int
) -> list[torch.Tensor]:
    of_inputs, of_grads = edge_stage.double_backward(inputs, grads, tangents, n_heads)
    return [*edge_stage.forward(inputs, n_heads), *edge_stage.backward(inputs, grads, n_heads), *of_inputs, *of_grads]
