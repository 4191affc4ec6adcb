"""The Triton kernels of the edge stage against its formulas: on a GPU if there is one, else in Triton's interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from edge_stages import CONFIGS, EXACT, blocks, force_training, model_of
from torch.fx.experimental.proxy_tensor import make_fx

from basinet.speed.check import largest_error, random_inputs
from basinet.speed.differentiable import EdgeStage, differentiable
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs
from basinet.structures.batch import collate
from molecules import CARBON_MONOXIDE, HELIUM, WATER, apart

pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDING = {torch.float64: EXACT, torch.float32: 1e-5}
SIZES = {
    "one atom": (2, 1, 4, 2),
    "one block of partners": (1, 4, 8, 2),
    "heads of three features": (2, 3, 6, 2),
    "heads of one feature": (1, 3, 4, 4),
    "several blocks, the last not full": (1, 5, 128, 1),
}
"""Molecules, atoms, features, heads."""


@pytest.fixture(scope="module")
def in_triton() -> EdgeStage:
    from basinet.speed.edge_triton import IN_TRITON

    return IN_TRITON


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_messages_and_both_derivatives_are_those_of_the_formulas(
    in_triton: EdgeStage, size: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    n_molecules, n, n_features, n_heads = size
    error = largest_error(
        in_triton,
        n_molecules=n_molecules,
        n=n,
        n_features=n_features,
        n_heads=n_heads,
        device=DEVICE,
        dtype=dtype,
    )
    assert error < ROUNDING[dtype]


def test_no_molecules_have_no_messages(in_triton: EdgeStage, generator: torch.Generator) -> None:
    inputs = EdgeInputs(*(x.to(DEVICE) for x in random_inputs(0, 3, 4, generator)))
    of_inputs, of_grads = in_triton.double_backward(inputs, in_triton.forward(inputs, 2), inputs, 2)
    assert [x.shape for x in of_inputs] == [x.shape for x in inputs]
    assert [x.shape for x in of_grads] == [(0, 3, 4), (0, 3, 3, 4)]


@pytest.mark.slow
def test_a_network_trains_on_forces_as_with_autograd(in_triton: EdgeStage) -> None:
    molecules = [apart(CARBON_MONOXIDE, HELIUM, 20.0), HELIUM, WATER]
    batch = collate(molecules, dtype=torch.float64).to(DEVICE)
    models = (model_of(CONFIGS["own"], *used).to(DEVICE) for used in ((), (blocks(in_triton),)))
    expected, ours = (force_training(model, batch) for model in models)
    assert expected.keys() == ours.keys()
    for key, value in expected.items():
        assert torch.allclose(ours[key], value, rtol=1e-11, atol=1e-11), key


def test_inputs_may_lie_in_memory_in_any_order(in_triton: EdgeStage, generator: torch.Generator) -> None:
    inputs = EdgeInputs(*(x.to(DEVICE) for x in random_inputs(2, 3, 4, generator)))
    turned = EdgeInputs(*(x.mT.contiguous().mT for x in inputs))
    for a, b in zip(in_triton.forward(turned, 2), in_triton.forward(inputs, 2), strict=True):
        assert torch.equal(a, b)


def test_a_trace_of_both_derivatives_holds_the_kernels_and_computes_the_same(
    in_triton: EdgeStage, generator: torch.Generator
) -> None:
    def step(*given: torch.Tensor) -> list[torch.Tensor]:
        inputs = EdgeInputs(*(x.detach().requires_grad_() for x in given))
        found = torch.stack([x.square().sum() for x in differentiable(in_triton, inputs, 2)]).sum()
        first = torch.autograd.grad(found, inputs, create_graph=True)
        return list(torch.autograd.grad(torch.stack([x.square().sum() for x in first]).sum(), inputs))

    inputs, others = ([x.to(DEVICE) for x in random_inputs(1, 3, 4, generator)] for _ in range(2))
    graph = make_fx(step, tracing_mode="fake")(*inputs)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert {f"basinet.edge_stage{part}.default" for part in ("", "_backward", "_double_backward")} <= called
    for a, b in zip(graph(*others), step(*others), strict=True):
        assert torch.allclose(a, b, rtol=EXACT, atol=EXACT)


COMPILE = """
import warnings

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from basinet.speed import edge_triton

warnings.simplefilter("error")
blocks = {"block_j": 16, "block_d": 16}
ones = {"n": 1, "n_heads": 1, "width": 1}  # Triton takes a 1 for a constant
for kernel in (edge_triton._forward, edge_triton._backward, edge_triton._double_backward):
    for number, constants in (("fp32", blocks), ("fp64", blocks), ("fp32", blocks | ones)):
        kinds = dict.fromkeys(ones, "i32") | dict.fromkeys(constants, "constexpr")
        signature = {name: kinds.get(name, f"*{number}") for name in kernel.arg_names}
        source = ASTSource(kernel, signature=signature, constexprs=constants)
        options = edge_triton.COMPILER_OPTIONS
        assert "cubin" in compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_without_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("n_features", [128, 256])
@pytest.mark.parametrize("n", [1, 20, 64])
def test_the_published_sizes_on_a_gpu(in_triton: EdgeStage, n: int, n_features: int, dtype: torch.dtype) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("no CUDA device")
    error = largest_error(in_triton, n=n, n_features=n_features, n_heads=8, device=DEVICE, dtype=dtype)
    assert error < ROUNDING[dtype]


@pytest.mark.gpu
def test_kernels_on_a_gpu_give_the_same_to_the_bit_every_time(in_triton: EdgeStage, generator: torch.Generator) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("no CUDA device")
    inputs, tangents = (
        EdgeInputs(*(x.to(DEVICE, torch.float32) for x in random_inputs(8, 20, 128, generator))) for _ in range(2)
    )
    grads = EdgeOutputs(inputs.scalar, inputs.vector)
    first, second = (in_triton.double_backward(inputs, grads, tangents, 8) for _ in range(2))
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
