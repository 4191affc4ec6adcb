"""SiLU and its derivatives against those of torch."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import build_model
from basinet.nn import silu as module
from basinet.nn.silu import silu
from basinet.structures.batch import collate
from molecules import SMALL

SIZES = {"n_features": 8, "n_layers": 2}
EXACT = 1e-14
"""Rounding in float64 of values of about one."""


@pytest.fixture(autouse=True)
def written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have tensors of all sizes treated as the large ones are."""
    monkeypatch.setattr(module, "SMALL", 0)


def derivatives(function, x: Tensor, order: int) -> list[Tensor]:
    """Return value and derivatives of the sum of a function, which stay in the graph up to the last."""
    found = [function(x)]
    for n in range(order):
        keep = n + 1 < order
        found += torch.autograd.grad(found[-1].sum(), x, create_graph=keep)
    return [value.detach() for value in found]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_value_and_derivatives_are_those_of_torch(order: int, generator: torch.Generator) -> None:
    x = (3 * torch.randn(40, generator=generator, dtype=torch.float64)).requires_grad_()
    for ours, expected in zip(derivatives(silu, x, order), derivatives(F.silu, x, order), strict=True):
        assert float((ours - expected).abs().max()) < 100 * EXACT


def test_derivatives_are_finite_differences(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(silu, x)
    assert torch.autograd.gradgradcheck(silu, x)


def test_a_second_derivative_kept_in_the_graph_is_the_same_as_one_that_is_not(generator: torch.Generator) -> None:
    x = torch.randn(40, generator=generator, dtype=torch.float64).requires_grad_()
    found = []
    for keep in (False, True):
        (first,) = torch.autograd.grad(silu(x).sum(), x, create_graph=True)
        found += torch.autograd.grad(first.sum(), x, create_graph=keep)
    assert torch.allclose(found[0], found[1], rtol=0, atol=EXACT)
    assert not found[0].requires_grad
    assert found[1].requires_grad


def test_numbers_of_any_size_have_finite_derivatives() -> None:
    x = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], requires_grad=True)
    value, first, second = derivatives(silu, x, 2)
    assert torch.equal(value, torch.tensor([0.0, 0.0, 0.0, 90.0, 1e4]))
    assert torch.equal(first, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert torch.equal(second, torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0]))


def test_nothing_at_all_and_a_single_number_will_do() -> None:
    assert silu(torch.empty(0, 3, requires_grad=True)).shape == (0, 3)
    assert float(silu(torch.tensor(0.0))) == 0


def test_only_two_tensors_are_kept_for_the_second_derivative(generator: torch.Generator) -> None:
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    x = torch.randn(10, generator=generator).requires_grad_()
    weight = torch.randn(10, generator=generator).requires_grad_()
    value = silu(x)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        torch.autograd.grad(value, x, weight, create_graph=True)
    assert len({x.data_ptr() for x in kept}) == 2


def test_a_trace_of_the_second_derivative_computes_the_same(generator: torch.Generator) -> None:
    def step(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(silu(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    x, other = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    assert torch.equal(make_fx(step)(x)(other), step(other))


def test_small_tensors_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 5)
    small, large = (silu(torch.ones(n, requires_grad=True)).grad_fn for n in (4, 5))
    assert type(small) is type(F.silu(torch.ones(1, requires_grad=True)).grad_fn)
    assert type(large) is not type(small)


@pytest.mark.parametrize("config", [EquivariantTransformerConfig(**SIZES), EGNNConfig(**SIZES, graph=RadiusGraph())])
def test_a_network_trains_on_forces_as_with_that_of_torch(config, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate(SMALL, dtype=torch.float64)
    found = []
    for size in (0, 10**9):
        monkeypatch.setattr(module, "SMALL", size)
        torch.manual_seed(0)
        model = build_model(build_backbone(config), ["energy", "forces"]).double()
        outputs = model(batch, ["energy", "forces"])
        torch.stack([value.square().sum() for value in outputs.values()]).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([*(value.detach() for value in outputs.values()), *gradients])
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-11, atol=1e-11)
