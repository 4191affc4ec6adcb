"""Products in recorded graphs, given to oneDNN."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from basinet.models.graph_products import by_onednn
from basinet.models.joint import Compiler, capture, inductor, interpreted
from basinet.speed import products
from basinet.speed.products import Linear

ROUNDING = 1e-5
"""Float32, relative to the largest element; sums of a dozen terms."""
OURS = "basinet.product.default"


@pytest.fixture(autouse=True)
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have products of all sizes computed by oneDNN, whatever the processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "is_served", lambda: True)


def recorded(function: Callable[..., Any], *examples: Tensor) -> fx.GraphModule:
    return make_fx(function, tracing_mode="fake")(*examples)


def targets(graph: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


CASES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "product": lambda x, y, b: x @ y,
    "with a bias": lambda x, y, b: torch.addmm(b, x, y),
    "of a transposed matrix": lambda x, y, b: x.t() @ torch.cat([x, x, x], dim=1),
    "of a wide transposed matrix": lambda x, y, b: torch.cat([x, x, x], dim=1).t() @ x,
    "of a matrix with itself": lambda x, y, b: x[:7] @ x[:7],
    "of one number repeated": lambda x, y, b: x.sum().expand(7, 7) @ y,
    "of columns": lambda x, y, b: x[:, 2:5] @ y[2:5],
    "used twice": lambda x, y, b: (x @ y) * (x @ y).sum(),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_layout_stay(name: str, generator: torch.Generator) -> None:
    given = [torch.randn(shape, generator=generator) for shape in ((9, 7), (7, 4), (4,))]
    expected = CASES[name](*given)
    graph = by_onednn(recorded(CASES[name], *given))
    graph.graph.lint()
    assert OURS in targets(graph)
    assert not {"aten.mm.default", "aten.addmm.default"} & set(targets(graph))
    found = graph(*given)
    assert found.shape == expected.shape
    assert relative_error(found, expected) < ROUNDING


def test_what_is_not_faster_stays(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    def both(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y) @ y.t()

    x, y = torch.randn(9, 7, generator=generator), torch.randn(7, 4, generator=generator)
    assert OURS not in targets(by_onednn(recorded(lambda x, y: x @ y, x.double(), y.double())))
    assert OURS not in targets(by_onednn(recorded(lambda x, y: x @ y[:, :1], x, y)))
    assert OURS not in targets(by_onednn(recorded(lambda a, x, y: torch.addmm(a, x, y), x @ y, x, y)))
    assert OURS not in targets(by_onednn(recorded(lambda b, x, y: torch.addmm(b, x, y, beta=2.0), y[0], x, y)))
    monkeypatch.setattr(products, "is_served", lambda: False)
    assert OURS not in targets(by_onednn(recorded(both, x, y)))


def penalised(linear: Linear) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    def forces(weight: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        value = torch.func.functional_call(linear, {"weight": weight, "bias": bias}, x)
        return torch.autograd.grad(torch.tanh(value).square().sum(), x, create_graph=True)

    return forces


def counting(compiler: Compiler, seen: list[str]) -> Compiler:
    """Return a compiler that notes the operators of both halves of a graph, once products were replaced."""

    def note(then: Any, graph: fx.GraphModule, example: Sequence[Any]) -> Any:
        by_onednn(graph)
        seen.extend(targets(graph))
        return then(graph, example)

    return Compiler(functools.partial(note, compiler.forward), functools.partial(note, compiler.backward))


def differ(compiler: Compiler) -> float:
    """Return the largest error of second derivatives of a compiled linear map against eager ones in float64."""
    torch.manual_seed(0)
    linear, x, w = Linear(6, 4), torch.randn(5, 6), torch.randn(5, 6)
    compiled = capture(penalised(linear), [linear.weight, linear.bias, x], compiler)
    found = torch.autograd.grad((compiled(linear.weight, linear.bias, x)[0] * w).sum(), [linear.weight, linear.bias])
    wide = Linear(6, 4).double()
    wide.load_state_dict(linear.state_dict())
    (slow,) = penalised(wide)(wide.weight, wide.bias, x.double())
    expected = torch.autograd.grad((slow * w.double()).sum(), [wide.weight, wide.bias])
    return max(relative_error(a.double(), b) for a, b in zip(found, expected, strict=True))


def test_second_derivatives_are_recorded_as_products_of_torch_and_then_replaced() -> None:
    seen: list[str] = []
    assert differ(counting(interpreted(), seen)) < ROUNDING
    assert OURS in seen
    assert not {"aten.mm.default", "aten.addmm.default", "mkldnn._linear_pointwise.default"} & set(seen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in modules of PyTorch, as they are imported
def test_the_compiler_takes_them() -> None:
    assert differ(inductor()) < ROUNDING
