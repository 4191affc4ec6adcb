"""The formulas of the edge stage against autograd, a double loop, and the network that they are a part of."""

import dataclasses
import math

import pytest
import torch
from edge_stages import CONFIGS, EXACT, blocks, force_training, model_of
from torch import Tensor

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.derivatives import hessian
from basinet.speed.check import largest_error, random_inputs
from basinet.speed.differentiable import PLAIN, EdgeStage, differentiable
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs, forward
from basinet.structures.batch import collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.molecule import Molecule
from basinet.structures.sparse import SparseNeighbors
from molecules import ETHANOL, HELIUM, SMALL, WATER, apart

SIZES = {"one atom": 1, "two atoms": 2, "four atoms": 4}
HEADS = {"one head": 1, "two heads": 2, "heads of one feature": 6}


def leaves(inputs: EdgeInputs) -> EdgeInputs:
    return EdgeInputs(*(x.requires_grad_() for x in inputs))


@pytest.mark.parametrize("n_heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("n", SIZES.values(), ids=SIZES)
def test_messages_are_the_sums_of_the_definition(generator: torch.Generator, n: int, n_heads: int) -> None:
    inputs = random_inputs(2, n, 6, generator)
    ours = forward(inputs, n_heads)
    for b in range(2):
        for i in range(n):
            message, vector_message = slow_messages(inputs, n_heads, b, i)
            assert torch.allclose(ours.message[b, i], message, rtol=EXACT, atol=EXACT)
            assert torch.allclose(ours.vector_message[b, i], vector_message, rtol=EXACT, atol=EXACT)


def slow_messages(inputs: EdgeInputs, n_heads: int, b: int, i: int) -> tuple[Tensor, Tensor]:
    """Return the messages of one atom, edge by edge and head by head."""
    _, n, n_features = inputs.query.shape
    first, second = (x.tolist() for x in torch.triu_indices(n, n, offset=1))
    row = {pair: p for p, pair in enumerate(zip(first, second, strict=True))}
    message = torch.zeros(n_features, dtype=torch.float64)
    vector_message = torch.zeros(3, n_features, dtype=torch.float64)
    for j in range(n):
        for f in range(n_features):
            head = f // (n_features // n_heads)
            in_head = range(head * n_features // n_heads, (head + 1) * n_features // n_heads)
            filters = inputs.filters[b, len(row) if i == j else row[min(i, j), max(i, j)]]
            s = sum(float(inputs.query[b, i, h] * inputs.key[b, j, h] * filters[0, h]) for h in in_head)
            attention = s / (1 + math.exp(-s))
            message[f] += attention * filters[1, f] * inputs.scalar[b, j, f]
            for c in range(3):
                carried = filters[2, f] * inputs.vector[b, j, c, f]
                vector_message[c, f] += carried + inputs.unit[b, i, c, j] * filters[3, f] * inputs.directed[b, j, f]
    return message, vector_message


@pytest.mark.parametrize("n_heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("n", SIZES.values(), ids=SIZES)
def test_backward_and_double_backward_are_those_of_autograd(generator: torch.Generator, n: int, n_heads: int) -> None:
    inputs, tangents = (leaves(random_inputs(2, n, 6, generator)) for _ in range(2))
    grads = EdgeOutputs(*(torch.randn_like(x).requires_grad_() for x in (inputs.scalar, inputs.vector)))
    expected = torch.autograd.grad(forward(inputs, n_heads), inputs, grads, create_graph=True)
    assert_all_close(PLAIN.backward(inputs, grads, n_heads), expected)
    second = torch.autograd.grad(expected, [*inputs, *grads], tangents, materialize_grads=True)
    of_inputs, of_grads = PLAIN.double_backward(inputs, grads, tangents, n_heads)
    assert_all_close([*of_inputs, *of_grads], second)


def assert_all_close(ours: EdgeInputs | list[Tensor], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, rtol=EXACT, atol=EXACT), f"off by {float((a - b).detach().abs().max()):.1e}"


@pytest.mark.parametrize("n", [1, 3])
def test_both_derivatives_are_finite_differences(generator: torch.Generator, n: int) -> None:
    inputs = leaves(random_inputs(1, n, 4, generator))

    def messages(*given: Tensor) -> EdgeOutputs:
        return differentiable(PLAIN, EdgeInputs(*given), 2)

    assert torch.autograd.gradcheck(messages, tuple(inputs))
    # Of second derivatives, random projections of the Jacobian: all of it takes minutes for three atoms.
    assert torch.autograd.gradgradcheck(messages, tuple(inputs), fast_mode=True)


def test_a_third_derivative_is_refused(generator: torch.Generator) -> None:
    inputs = leaves(random_inputs(1, 2, 4, generator))
    found = sum(x.square().sum() for x in differentiable(PLAIN, inputs, 2))
    assert isinstance(found, Tensor)
    (first,) = torch.autograd.grad(found, inputs.query, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), inputs.query, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative"):
        torch.autograd.grad(second.sum(), inputs.query)


def test_filters_that_are_zero_leave_nothing(generator: torch.Generator) -> None:
    inputs = random_inputs(1, 3, 4, generator)
    silent = inputs._replace(filters=torch.zeros_like(inputs.filters))
    assert all(bool((x == 0).all()) for x in forward(silent, 2))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    "batch",
    [SMALL, [HELIUM], [apart(WATER, HELIUM, 20.0), ETHANOL], []],
    ids=["padded", "one atom", "no neighbours", "nothing"],
)
def test_a_network_trains_on_forces_as_with_autograd(
    config: EquivariantTransformerConfig, batch: list[Molecule]
) -> None:
    molecules = collate(batch, dtype=torch.float64) if batch else collate(SMALL, dtype=torch.float64).select([])
    expected, ours = (force_training(m, molecules) for m in (model_of(config), model_of(config, blocks(PLAIN))))
    assert expected.keys() == ours.keys()
    for key, value in expected.items():
        assert torch.allclose(ours[key], value, rtol=1e-11, atol=1e-11), key


def test_a_network_without_forces_needs_no_gradient_of_directions() -> None:
    batch = collate(SMALL, dtype=torch.float64)
    gradients = []
    for model in (model_of(CONFIGS["own"]), model_of(CONFIGS["own"], blocks(PLAIN))):
        model(batch, ["noise"], layout=DenseNeighbors)["noise"].square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-11) for a, b in zip(*gradients, strict=True))


def test_the_hessian_is_the_same() -> None:
    batch = collate([WATER], dtype=torch.float64)
    expected, ours = (
        hessian(model_of(CONFIGS["own"], *used), batch, layout=DenseNeighbors) for used in ((), (blocks(PLAIN),))
    )
    assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-10)


def test_the_sparse_layout_is_left_as_it_is() -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("called")

    batch = collate([WATER], dtype=torch.float64)
    model = model_of(CONFIGS["own"], blocks(EdgeStage(refuse, refuse, refuse)))  # pyright: ignore[reportArgumentType]
    model(batch, ["forces"], layout=SparseNeighbors)
    with pytest.raises(AssertionError, match="called"):
        model(batch, ["forces"], layout=DenseNeighbors)


def test_a_wrong_sign_shows_in_the_check() -> None:
    def wrong(inputs: EdgeInputs, grads: EdgeOutputs, n_heads: int) -> EdgeInputs:
        found = PLAIN.backward(inputs, grads, n_heads)
        return found._replace(unit=-found.unit)

    sizes = {"n_features": 8, "n_heads": 2, "device": torch.device("cpu"), "dtype": torch.float64}
    assert largest_error(PLAIN, **sizes) < EXACT
    assert largest_error(dataclasses.replace(PLAIN, backward=wrong), **sizes) > 1
