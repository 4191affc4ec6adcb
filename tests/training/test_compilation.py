"""A run whose network is compiled: it decides once, checks what it compiled, and goes on to the bit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

import basinet.training.compilation as compilation_module
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.models.compiled import CompiledNetwork
from basinet.models.joint import Compiler, interpreted, missing_compiler
from basinet.models.shapes import Shapes, shapes_for
from basinet.objectives.methods import force_and_denoise
from basinet.objectives.supervised import Forces
from basinet.structures.batch import collate
from basinet.training.compilation import Compilation, CompileMode, Estimate, estimate
from basinet.training.fit import Progress
from basinet.training.guard import Guard, WrongGraphError
from basinet.training.state import STATE_FILE, load_plain
from molecules import ETHANOL, WATER
from small_runs import GoneError, differences, frames, read_lines, run_fit, tiny_model, training

N_STEPS = 8


@pytest.fixture(scope="module")
def store() -> MoleculeStore:
    return MoleculeStore.from_molecules(frames(per_compound=4)[:22])


def run(
    directory: Path,
    store: MoleculeStore,
    lines: list[str],
    *,
    mode: CompileMode = "always",
    stop: int | None = None,
    resume: bool = False,
    n_steps: int = N_STEPS,
    compiler: Callable[[], Compiler] = interpreted,
) -> Any:
    def on_progress(progress: Progress) -> None:
        if progress.step == stop:
            raise GoneError

    model = tiny_model(("energy", "noise"), seed=3 if resume else 0)
    loader = Loader(store, None, batch_size=4, seed=0)
    compilation = Compilation(store.atoms_per_molecule, 4, lines.append, compiler)
    config = training(n_steps=n_steps, validate_every=2, compile=mode)
    run_fit(
        model,
        force_and_denoise(),
        loader,
        config,
        directory,
        compilation=compilation,
        resume=resume,
        on_progress=on_progress,
    )
    return model


def test_a_compiled_run_that_stops_and_goes_on_changes_no_bit(tmp_path: Path, store: MoleculeStore) -> None:
    lines: list[str] = []
    whole = run(tmp_path / "whole", store, lines)
    with pytest.raises(GoneError):
        run(tmp_path / "cut", store, lines, stop=5)
    resumed = run(tmp_path / "cut", store, lines, resume=True)
    assert not differences(whole.state_dict(), resumed.state_dict())
    first, second = (load_plain(tmp_path / name / STATE_FILE) for name in ("whole", "cut"))
    assert first["compiled"] is True
    assert not differences(first, second)
    compiled = [line for line in lines if line.startswith("compiled in")]
    assert compiled
    assert "gradients by" in compiled[0]


def test_a_compiled_run_learns_what_an_eager_one_does(tmp_path: Path, store: MoleculeStore) -> None:
    lines: list[str] = []
    eager = run(tmp_path / "eager", store, lines, mode="never")
    assert not lines
    compiled = run(tmp_path / "compiled", store, lines)
    losses = [[r["loss"] for r in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("eager", "compiled")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-2, atol=1e-4, msg=name)


def test_a_short_run_is_not_compiled_and_says_so(tmp_path: Path, store: MoleculeStore) -> None:
    lines: list[str] = []
    run(tmp_path / "short", store, lines, mode="auto", n_steps=2)
    assert lines == ["the network is not compiled: 2 steps are too few"]
    assert load_plain(tmp_path / "short" / STATE_FILE)["compiled"] is False


def test_to_ask_how_long_a_step_takes_leaves_no_trace(tmp_path: Path, store: MoleculeStore) -> None:
    lines: list[str] = []
    for mode in ("auto", "never"):
        with pytest.raises(GoneError):
            run(tmp_path / mode, store, lines, mode=mode, n_steps=200, stop=4)
    assert len(lines) == 1
    assert "does not pay: 200 steps of" in lines[0]
    asked, never = (load_plain(tmp_path / mode / STATE_FILE) for mode in ("auto", "never"))
    assert not differences(asked, never)


def test_an_estimate_counts_steps_and_graphs() -> None:
    model = tiny_model(("energy",))
    batch = collate([WATER, ETHANOL])

    def step() -> None:
        model.train()(batch, ["forces"])["forces"].square().sum().backward()

    few, many = (estimate(model, n, step, Shapes(2, (3, 9))) for n in (1, 10**9))
    assert few.n_graphs == 2
    assert few.cost == many.cost > 0
    assert not few.pays
    assert many.pays
    assert str(Estimate(100, 0.5, 2, 60.0)) == (
        "compiling the network does not pay: 100 steps of 0.5 s, of which it would save about 18 s and cost about "
        "60 s (2 graphs)"
    )


def broken() -> Compiler:
    """Return a compiler that makes one mistake: sigmoids are hyperbolic tangents."""
    run = interpreted()

    def forward(graph: fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        for node in graph.graph.nodes:
            if node.target == torch.ops.aten.sigmoid.default:
                node.target = torch.ops.aten.tanh.default
        graph.recompile()
        return run.forward(graph, example)

    return Compiler(forward, run.backward)


def without_derivatives() -> Compiler:
    """Return a compiler whose outputs are right and whose gradients are a thousandth too large."""
    run = interpreted()

    def backward(graph: fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        right = run.backward(graph, example)

        def wrong(inputs: list[Any]) -> list[Any]:
            return [None if x is None else x * 1.001 for x in right(inputs)]

        wrong._boxed_call = True  # pyright: ignore
        return wrong

    return Compiler(run.forward, backward)


def crashing() -> Compiler:
    def crash(graph: fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        raise RuntimeError("internal compiler error")

    return Compiler(crash, crash)


FAULTS = {
    "outputs": (broken, "are wrong: outputs are off by"),
    "gradients": (without_derivatives, "are wrong: outputs are off by .* and gradients by 1e-03"),
    "a crash": (crashing, "cannot be compiled .*internal compiler error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_graph_that_is_wrong_is_refused(fault: str) -> None:
    compiler, message = FAULTS[fault]
    model = tiny_model(("energy",)).train()
    batch = collate([WATER, ETHANOL])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    strict = CompiledNetwork(model, Shapes(2, (9,)), compiler(), Guard(lambda line: None, strict=True))
    with (
        pytest.raises(WrongGraphError, match=f"{message}.*; run with training.compile=never"),
        model.evaluated_by(strict),
    ):
        model(batch, ["forces"])


def test_what_cannot_be_compiled_goes_the_eager_way_if_nobody_insists() -> None:
    model = tiny_model(("energy",)).train()
    batch = collate([WATER, ETHANOL])
    expected = model(batch, ["forces"])["forces"]
    lines: list[str] = []
    network = CompiledNetwork(model, Shapes(2, (9,)), crashing(), Guard(lines.append, strict=False))
    with model.evaluated_by(network):
        found = [model(batch, ["forces"])["forces"] for _ in range(2)]
    assert all(torch.equal(forces, expected) for forces in found)
    assert len(lines) == 2
    assert lines[1].endswith("; eager PyTorch computes them")


def test_without_a_compiler_a_run_says_so_or_refuses(store: MoleculeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "a C++ compiler (g++)"
    monkeypatch.setattr(compilation_module, "missing_compiler", lambda device: why)
    lines: list[str] = []
    compilation = Compilation(store.atoms_per_molecule, 4, lines.append)
    device = torch.device("cpu")
    assert compilation.hindrance("auto", 10**6, device) == "there is no C++ compiler (g++)"
    assert compilation.hindrance("never", 10**6, device) == "training.compile=never"
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler .*; install one, or say training.compile=never"):
        compilation.hindrance("always", 10, device)
    with pytest.raises(ValueError, match="was begun with its network compiled"):
        compilation.network(tiny_model(), "auto", device)


def test_a_compiler_is_looked_for_where_inductor_looks() -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert missing_compiler(torch.device("cpu")) == "a C++ compiler (g++ or clang++, or the one that CXX names)"


def test_sizes_are_few_and_pad_little() -> None:
    assert shapes_for(np.full(50, 21), 32) == Shapes(16, (21,))
    assert shapes_for(np.array([5, 70, 5]), 5) == Shapes(5, (5,))
    assert shapes_for(np.array([70]), 5) is None
    sizes = np.random.default_rng(0).integers(3, 64, 1000)
    shapes = shapes_for(sizes, 40)
    assert shapes is not None
    assert shapes.n_molecules == 14
    padded = np.array([min(s for s in shapes.sizes if s >= n) for n in sizes])
    assert (padded**2).sum() < 1.5 * (sizes**2).sum()
    assert shapes.sizes[-1] == sizes.max()


@pytest.mark.parametrize("seed", range(3))
def test_the_sizes_are_the_best_there_are(seed: int) -> None:
    """Against all choices of two sizes among the ones that occur."""
    sizes = np.random.default_rng(seed).choice([3, 5, 8, 13, 20, 30], 40)
    shapes = shapes_for(sizes, 4)
    assert shapes is not None

    def cost(chosen: Sequence[int]) -> int:
        return sum(min(s for s in chosen if s >= n) ** 2 for n in sizes)

    if len(shapes.sizes) == 2:
        options = [(low, sizes.max()) for low in np.unique(sizes)[:-1]]
        assert cost(shapes.sizes) == min(cost(option) for option in options)
    else:
        assert cost(shapes.sizes) <= 1.3 * (sizes**2).sum() or len(shapes.sizes) == 4


def test_forces_alone_are_one_graph(store: MoleculeStore, tmp_path: Path) -> None:
    lines: list[str] = []
    compilation = Compilation(store.atoms_per_molecule, 4, lines.append, interpreted)
    loader = Loader(store, None, batch_size=4, seed=0)
    config = training(n_steps=2, compile="always")
    run_fit(tiny_model(), Forces(), loader, config, tmp_path / "run", compilation=compilation)
    assert any(line.startswith("compiling") for line in lines)
    assert all("forces for" in line for line in lines if line.startswith("compiling"))
