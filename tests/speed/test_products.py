"""Products by oneDNN against those of torch in float64, and where they are used."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.model import build_model
from basinet.nn.modules import xavier
from basinet.speed import products
from basinet.speed.products import Linear, linear, serves
from basinet.structures.batch import collate
from molecules import SMALL

ROUNDING = 1e-5
"""Float32, relative to the largest element of a tensor; sums of up to 64 terms, differentiated up to three times."""
OPERATOR = "_linear_pointwise"
EPYC = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f avx512bw\n\n"
SHAPES = [((7, 5), 6), ((64, 3), 2), ((2, 64), 3), ((4, 3, 8), 16), ((2, 2, 2, 9), 4)]
Map = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@pytest.fixture
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have products of all sizes computed by oneDNN, whatever the processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "has_fast_onednn", lambda: True)


class Operators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def count(self, name: str) -> int:
        """Return how often an operator was called."""
        return self.names.count(name)


def operators(run: Callable[[], object]) -> Operators:
    with Operators() as found:
        run()
    return found


def inputs(rows: Sequence[int], n_out: int, generator: torch.Generator) -> list[Tensor]:
    shapes = [rows, (n_out, rows[-1]), (n_out,)]
    return [(torch.randn(shape, generator=generator) / rows[-1] ** 0.5).requires_grad_() for shape in shapes]


def derivatives(function: Map, given: Sequence[Tensor], order: int, *, bias: bool = True) -> list[Tensor]:
    """Return the value of a map and gradients of it, each of a sum of curved functions of those before."""
    x, weight = given[:2]
    wanted = given if bias else given[:2]
    found = [function(x, weight, given[2] if bias else None)]
    last = found
    for n in range(order):
        loss = torch.stack([torch.sin(value).sum() for value in last]).sum()
        last = torch.autograd.grad(loss, wanted, create_graph=n + 1 < order)
        found += last
    return [value.detach() for value in found]


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "n_out"), SHAPES)
def test_values_and_three_derivatives_are_those_of_torch(
    rows: tuple[int, ...], n_out: int, bias: bool, generator: torch.Generator
) -> None:
    given = inputs(rows, n_out, generator)
    wide = [x.detach().double().requires_grad_() for x in given]
    found, expected = (derivatives(f, g, 3, bias=bias) for f, g in ((linear, given), (F.linear, wide)))
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert {x.dtype for x in found} == {torch.float32}
    assert largest_error(found, expected) < ROUNDING


@pytest.mark.usefixtures("all_sizes")
def test_it_is_onednn_that_multiplies_in_all_derivatives(generator: torch.Generator) -> None:
    given = inputs((7, 5), 6, generator)
    found, expected = (operators(lambda f=f: derivatives(f, given, 2)) for f in (linear, F.linear))
    assert found.count(OPERATOR) == expected.count("mm") + expected.count("addmm") == 9
    assert not {"mm", "addmm", "bmm", "addmv"} & set(found.names)


@pytest.mark.usefixtures("all_sizes")
def test_forces_cost_no_gradient_of_a_weight(generator: torch.Generator) -> None:
    x, weight, bias = inputs((7, 5), 6, generator)
    layers = linear(torch.tanh(linear(x, weight, bias)), weight.t(), None)
    found = operators(lambda: torch.autograd.grad(layers.sum(), x, create_graph=True))
    assert found.count(OPERATOR) == 2
    frozen = linear(x, weight.detach(), None)
    assert operators(lambda: frozen.sum().backward()).count(OPERATOR) == 1
    fixed = linear(x.detach(), weight, None)
    assert operators(lambda: fixed.sum().backward()).count(OPERATOR) == 1


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.parametrize("free", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_some_inputs_may_be_constant(free: tuple[int, ...], generator: torch.Generator) -> None:
    given = inputs((7, 5), 6, generator)
    wide = [x.detach().double().requires_grad_() for x in given]
    both = []
    for function, tensors in ((linear, given), (F.linear, wide)):
        used = [x if i in free else x.detach() for i, x in enumerate(tensors)]
        both.append(torch.autograd.grad(function(*used).square().sum(), [used[i] for i in free]))
    assert largest_error(*both) < ROUNDING


@pytest.mark.usefixtures("all_sizes")
def test_without_gradients(generator: torch.Generator) -> None:
    given = inputs((7, 5), 6, generator)
    with torch.no_grad():
        found = linear(*given)
    assert not found.requires_grad
    torch.testing.assert_close(found, F.linear(*given).detach(), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.usefixtures("all_sizes")
def test_tensors_laid_out_in_any_way(generator: torch.Generator) -> None:
    layouts: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
        lambda x: x.repeat_interleave(2, dim=0)[::2],
        lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
        lambda x: x[:1].expand_as(x),
        lambda x: x[:, :1].expand_as(x),
    ]
    x, weight, _ = (p.detach() for p in inputs((7, 5), 6, generator))
    for of_x in layouts:
        for of_weight in layouts:
            given = [of_x(x).requires_grad_(), of_weight(weight).requires_grad_()]
            wide = [p.detach().double().requires_grad_() for p in given]
            found, expected = (derivatives(f, g, 2, bias=False) for f, g in ((linear, given), (F.linear, wide)))
            assert largest_error(found, expected) < ROUNDING


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (5,), (1, 5), (7, 5)])
def test_no_rows_one_row_and_a_vector(shape: tuple[int, ...], generator: torch.Generator) -> None:
    module = Linear(5, 3)
    x = torch.randn(shape, generator=generator).requires_grad_()
    found = module(x)
    torch.testing.assert_close(found, F.linear(x, module.weight, module.bias))
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape


def test_small_products_and_other_types_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "has_fast_onednn", lambda: True)
    module, x = Linear(16, 16), torch.randn(16, 16)
    assert operators(lambda: module(x)).count(OPERATOR) == 0
    monkeypatch.setattr(products, "SMALL", 0)
    assert operators(lambda: module(x)).count(OPERATOR) == torch.backends.mkldnn.is_available()
    assert operators(lambda: copy.deepcopy(module).double()(x.double())).count(OPERATOR) == 0
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):  # pyright: ignore[reportArgumentType]
        assert operators(lambda: module(x)).count(OPERATOR) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    monkeypatch.setattr(products, "has_fast_onednn", lambda: False)
    assert operators(lambda: module(x)).count(OPERATOR) == 0


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in modules of PyTorch, as they are imported
def test_other_ways_to_differentiate_are_those_of_torch(generator: torch.Generator) -> None:
    x, weight, bias = (p.detach() for p in inputs((7, 5), 6, generator))
    along = torch.ones_like(x)
    expected = F.linear(along, weight)
    torch.testing.assert_close(torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (along,))[1], expected)
    with forward_ad.dual_level():
        dual = linear(forward_ad.make_dual(x, along), weight.requires_grad_(), bias)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)
    batched = torch.func.vmap(lambda x: linear(x, weight, bias))(torch.stack([x, along]))
    torch.testing.assert_close(batched[0], F.linear(x, weight, bias))
    gradient = torch.func.grad(lambda x: linear(x, weight, bias).sum())(x)
    torch.testing.assert_close(gradient, weight.sum(0).expand_as(x))


def test_what_is_recorded_is_an_ordinary_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "has_fast_onednn", lambda: True)
    monkeypatch.setattr(products, "SMALL", 0)
    recorded = torch.export.export(Linear(4, 4), (torch.randn(4, 4),))
    assert OPERATOR not in str(recorded.graph)


def test_a_linear_map_is_torchs_under_the_same_names() -> None:
    module = xavier(4, 6, 2)
    assert isinstance(module, nn.Linear)
    assert module.state_dict().keys() == nn.Linear(4, 8).state_dict().keys()
    copied = copy.deepcopy(module)
    copied.load_state_dict(nn.Linear(4, 8).state_dict())
    assert str(module) == str(nn.Linear(4, 8))


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.parametrize(
    "config",
    [
        EquivariantTransformerConfig(n_features=32, n_layers=2),
        EGNNConfig(n_features=32, n_layers=2, graph=RadiusGraph(cutoff=5.0)),
    ],
)
def test_a_step_on_forces_is_that_of_torch_and_the_same_every_time(config: BackboneConfig) -> None:
    torch.manual_seed(0)
    model = build_model(build_backbone(config), ["energy"])
    batch = collate(SMALL * 3)

    def step() -> list[Tensor]:
        model.zero_grad()
        loss = model(batch, ["forces"])["forces"].square().sum()
        loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None and p.grad.any()]

    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):  # pyright: ignore[reportArgumentType]
        expected = step()
    first, second = step(), step()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert largest_error(first, expected) < 1e-3  # forces of a fresh network are small, and so is what they hang on
    assert operators(step).count(OPERATOR) > 50


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (EPYC, True),
        (EPYC + EPYC.replace("processor\t: 0", "processor\t: 1"), True),
        (EPYC.replace("AuthenticAMD", "GenuineIntel"), False),
        (EPYC.replace("avx512f avx512bw", ""), False),
        ("processor\t: 0\nCPU implementer\t: 0x41\nFeatures\t: fp asimd\n", False),
        ("flags\t\t: avx512f\n", False),
        ("", False),
    ],
)
def test_which_processors_are_served(processor: str, expected: bool) -> None:
    assert serves(processor) is expected


def test_a_system_that_does_not_describe_its_processor_is_not_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for text, expected in ((None, False), (EPYC, torch.backends.mkl.is_available())):
        monkeypatch.setattr(products, "PROCESSOR", tmp_path / "cpuinfo")
        if text is not None:
            (tmp_path / "cpuinfo").write_text(text)
        products.has_fast_onednn.cache_clear()
        assert products.has_fast_onednn() is expected
    products.has_fast_onednn.cache_clear()
