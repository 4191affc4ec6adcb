"""Runs use the kernels they are asked for, or say why not."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from basinet.backbones import transformer_kernels
from basinet.backbones.base import NoKernelsWarning, with_kernels
from basinet.backbones.egnn import EGNN, EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformer
from basinet.backbones.transformer_kernels import TOLERANCE, block_error, require_right
from basinet.commands.recipe import LaunchConfig
from basinet.commands.train import kernels
from basinet.commands.train.finetune import finetune
from basinet.errors import RunError
from basinet.speed import cpp
from basinet.speed.cpp import NoCompilerError
from basinet.speed.differentiable import PLAIN
from small_runs import ON_CPU, TINY, finetune_recipe, frames, make_store, training

ASKED = LaunchConfig(kernels="triton")


def test_a_run_without_a_gpu_says_once_that_it_goes_on_without_and_is_the_same(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", frames())
    said: list[str] = []
    losses = []
    for asked in ("plain", "triton"):
        launch = LaunchConfig(accelerator="cpu", threads=1, kernels=asked)
        recipe = finetune_recipe(store, training=training(n_steps=3), launch=launch)
        losses.append(finetune(recipe, tmp_path / asked, say=said.append).fit.best)
    assert [line for line in said if "kernels" in line] == [
        "no Triton kernels for the edges of the network: they need a CUDA device, and the network is on cpu; PyTorch "
        "computes them"
    ]
    assert losses[0] == losses[1]


def test_nothing_is_said_where_nothing_was_asked_and_nothing_is_there() -> None:
    said: list[str] = []
    backbone = EquivariantTransformer(TINY)
    kernels.use_kernels(backbone, ON_CPU, torch.device("cuda"), said.append)
    kernels.use_kernels(EGNN(EGNNConfig(n_features=8, n_layers=1)), ON_CPU, torch.device("cpu"), said.append)
    assert said == [] and backbone.implementation.kind == "plain"


def test_a_run_on_a_cpu_uses_native_kernels_says_so_and_learns_the_same(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", frames())
    said: list[str] = []
    losses = []
    for asked in ("plain", "native", "auto"):
        launch = LaunchConfig(accelerator="cpu", threads=1, kernels=asked)
        recipe = finetune_recipe(store, training=training(n_steps=3), launch=launch)
        losses.append(finetune(recipe, tmp_path / asked, say=said.append).fit.best)
    assert [line for line in said if "kernels" in line] == 2 * ["C++ kernels for the edges of the network"]
    assert losses[1] == losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_without_a_compiler_a_run_says_what_is_missing_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise NoCompilerError("there is no C++ compiler")

    monkeypatch.setattr(cpp, "find_compiler", missing)
    said: list[str] = []
    backbone = EquivariantTransformer(dataclasses.replace(TINY, n_features=10))
    kernels.use_kernels(backbone, ON_CPU, torch.device("cpu"), said.append)
    assert said == ["no C++ kernels for the edges of the network: there is no C++ compiler; PyTorch computes them"]
    assert backbone.implementation.kind == "plain"


def test_without_a_compiler_who_asks_a_model_is_warned_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise NoCompilerError("there is no C++ compiler")

    monkeypatch.setattr(cpp, "find_compiler", missing)
    backbone = EquivariantTransformer(dataclasses.replace(TINY, n_features=14))
    with pytest.warns(NoKernelsWarning, match=r"answers take longer: there is no C\+\+ compiler"):
        with_kernels(backbone)
    assert backbone.implementation.kind == "plain"
    with_kernels(EGNN(EGNNConfig(n_features=8, n_layers=1)))  # it has none, and nobody need know


def test_native_kernels_are_not_for_gpus() -> None:
    said: list[str] = []
    launch = LaunchConfig(kernels="native")
    kernels.use_kernels(EquivariantTransformer(TINY), launch, torch.device("cuda"), said.append)
    assert said == [
        "no C++ kernels for the edges of the network: they need a CPU, and the network is on cuda; PyTorch "
        "computes them"
    ]


def test_native_kernels_that_compute_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_kernels, "native_error", lambda *_: 0.3)
    with pytest.raises(RunError, match=r"off by 3.0e-01 on cpu, expected less than 0.0001; use launch.kernels=plain"):
        EquivariantTransformer(TINY).use_kernels("native")


def test_another_network_has_no_kernels() -> None:
    said: list[str] = []
    backbone = EGNN(EGNNConfig(n_features=8, n_layers=1))
    kernels.use_kernels(backbone, ASKED, torch.device("cuda"), said.append)
    assert said == ["no Triton kernels for the edges of the network: EGNN has no such kernels; PyTorch computes them"]


def test_where_triton_is_missing_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(transformer_kernels, "find_spec", lambda _: None)
    said: list[str] = []
    backbone = EquivariantTransformer(TINY)
    kernels.use_kernels(backbone, ASKED, torch.device("cuda"), said.append)
    assert said == [
        'no Triton kernels for the edges of the network: Triton is not installed (pip install "basinet[triton]"); '
        "PyTorch computes them"
    ]
    assert backbone.implementation.kind == "plain"


def test_kernels_that_compute_something_else_are_refused() -> None:
    wrong = dataclasses.replace(
        PLAIN, forward=lambda inputs, n_heads: PLAIN.forward(inputs._replace(query=inputs.key), n_heads)
    )
    cpu = torch.device("cpu")
    require_right(block_error(PLAIN, TINY.n_features, TINY.n_heads, cpu), cpu)
    assert block_error(PLAIN, TINY.n_features, TINY.n_heads, cpu) < TOLERANCE
    with pytest.raises(RunError, match=r"off by .* on cpu, expected less than 0.0001; use launch.kernels=plain"):
        require_right(block_error(wrong, TINY.n_features, TINY.n_heads, cpu), cpu)


@pytest.mark.parametrize("within", [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")])
def test_native_kernels_are_checked_wherever_they_are_asked_for(within: Callable[[], Any]) -> None:
    backbone = EquivariantTransformer(TINY)
    transformer_kernels.native_error.cache_clear()
    with within():
        assert backbone.use_kernels("native") is None
    assert backbone.implementation.kind == "native"
