"""Checkpoint files of other codes, made here in their layouts, and the released one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.cli import app
from basinet.commands.exchange import convert, export
from basinet.models.checkpoint import load_model, save_model
from basinet.models.convert.export import hyper_parameters, to_torchmd_net
from basinet.models.convert.published import Sizes, read_published
from basinet.models.convert.torchmd_net import from_torchmd_net
from basinet.models.model import build_model
from basinet.structures.batch import Batch
from basinet.units import KCAL_PER_MOL
from reference import reference_checkpoint
from small_runs import tiny_model

CONFIG = EquivariantTransformerConfig(n_features=32, n_layers=2, n_heads=4, n_basis=16, vector_cutoff=False)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[2] / "golden" / "torchmd_et.npz") as file:
        return dict(file)


@pytest.fixture
def state(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    found = {k.removeprefix("state/"): torch.from_numpy(v) for k, v in golden.items() if k.startswith("state/")}
    return {key: value.clone() for key, value in found.items()}


@pytest.fixture
def options(golden: dict[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(str(golden["config"]))


@pytest.fixture
def batch(golden: dict[str, np.ndarray]) -> Batch:
    of_golden = {key: torch.from_numpy(golden[key]) for key in ("atomic_numbers", "positions", "molecule")}
    return Batch(**of_golden, n_molecules=3)


def lightning(path: Path, state: dict[str, Tensor], options: dict[str, Any] | None) -> Path:
    """Write a checkpoint as Lightning does."""
    content: dict[str, Any] = {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3}
    torch.save(content if options is None else content | {"hyper_parameters": options}, path)
    return path


def denoising_state(state: dict[str, Tensor], *, whitened: bool = True) -> dict[str, Tensor]:
    """Return weights as coordinate denoising releases them: with a noise head and the statistics of its target."""
    noise = {k.replace("output_model.", "output_model_noise."): v for k, v in state.items() if "output_model." in k}
    old = {k.replace("update_net.layers.", "update_net."): v for k, v in (state | noise).items()}
    statistics = {
        "pos_normalizer.acc_sum": torch.tensor([1.0, -2.0, 3.0]),
        "pos_normalizer.acc_squared_sum": torch.tensor([16.0, 17.0, 18.0]),
        "pos_normalizer.acc_count": torch.tensor([10000.0]),
        "pos_normalizer.num_accumulations": torch.tensor([5.0]),
    }
    norm = {"representation_model.out_norm_vec.weight": torch.linspace(0.5, 1.5, 32).double()} if whitened else {}
    return old | statistics | norm


def test_a_checkpoint_of_torchmd_net_gives_its_energies_and_forces(
    tmp_path: Path, golden: dict[str, np.ndarray], state: dict[str, Tensor], options: dict[str, Any], batch: Batch
) -> None:
    file = lightning(tmp_path / "et.ckpt", state, options)
    found = read_published(file)
    assert (found.layout, found.backbone) == ("torchmd-net", CONFIG)
    convert(file, tmp_path / "et.safetensors", elements=["H", "C", "O"], level_of_theory="none")
    model = load_model(tmp_path / "et.safetensors").model.eval()
    assert (model.scope.elements, model.scope.level_of_theory) == (frozenset({1, 6, 8}), "none")
    for key, value in model(batch, ["energy", "forces"]).items():
        np.testing.assert_allclose(value.detach().numpy(), golden[key], rtol=1e-9, atol=1e-9)


def test_energies_in_another_unit_are_converted(
    tmp_path: Path, golden: dict[str, np.ndarray], state: dict[str, Tensor], options: dict[str, Any], batch: Batch
) -> None:
    convert(lightning(tmp_path / "a", state, options), tmp_path / "m.safetensors", energy_unit="kcal/mol")
    found = load_model(tmp_path / "m.safetensors").model.eval()(batch, ["energy", "forces"])
    np.testing.assert_allclose(found["forces"].numpy(), KCAL_PER_MOL * golden["forces"], rtol=1e-9, atol=1e-9)


def test_without_hyper_parameters_heads_and_cutoff_must_be_given(tmp_path: Path, state: dict[str, Tensor]) -> None:
    file = lightning(tmp_path / "et.ckpt", state, None)
    with pytest.raises(ValueError, match=r"has no hyper-parameters.*--n-heads 8 --cutoff 5"):
        read_published(file)
    assert read_published(file, sizes=Sizes(4, 5.0)).backbone == CONFIG


def test_other_options_than_ours_are_refused_by_name(
    tmp_path: Path, state: dict[str, Tensor], options: dict[str, Any]
) -> None:
    file = lightning(tmp_path / "et.ckpt", state, options | {"rbf_type": "gauss", "cutoff_lower": 1.0})
    with pytest.raises(ValueError, match="options that ours has not: rbf_type='gauss', cutoff_lower=1.0"):
        read_published(file)


def test_a_model_exported_and_read_again_is_the_same_to_the_bit(
    tmp_path: Path, state: dict[str, Tensor], options: dict[str, Any]
) -> None:
    model = from_torchmd_net(state, CONFIG)
    written = to_torchmd_net(model)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key].to(written[key].dtype)) for key in state)
    ours = hyper_parameters(CONFIG, torch.float64)
    assert {k: options[k] for k in ours if k in options and k != "max_num_neighbors"} == {
        k: v for k, v in ours.items() if k in options and k != "max_num_neighbors"
    }
    save_model(model, tmp_path / "m.safetensors", CONFIG)
    assert export(tmp_path / "m.safetensors", tmp_path / "out.ckpt") is None
    again = read_published(tmp_path / "out.ckpt", "torchmd-net").model
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


def test_reference_energies_are_left_out_only_if_asked(tmp_path: Path) -> None:
    config = EquivariantTransformerConfig(n_features=8, n_layers=1, n_heads=2, n_basis=8)
    save_model(tiny_model(config=config), tmp_path / "m.safetensors", config)
    with pytest.raises(ValueError, match="it has reference energies"):
        export(tmp_path / "m.safetensors", tmp_path / "out.ckpt")
    beside = export(tmp_path / "m.safetensors", tmp_path / "out.ckpt", without_references=True)
    assert beside is not None
    assert json.loads(beside.read_text())["energies"]["C"] == -1030.1
    assert read_published(tmp_path / "out.ckpt").backbone == config


def test_networks_torchmd_net_does_not_have_are_refused() -> None:
    whitened = EquivariantTransformerConfig(n_features=8, n_layers=1, n_heads=2, vector_norm="whitened")
    with pytest.raises(ValueError, match=r"no plain Equivariant Transformer; it has no energy in eV"):
        to_torchmd_net(build_model(EquivariantTransformer(whitened), ["noise"]))


def test_a_network_of_coordinate_denoising_keeps_its_noise_head_and_statistics(
    tmp_path: Path, state: dict[str, Tensor], options: dict[str, Any], batch: Batch
) -> None:
    plain = lightning(tmp_path / "plain.ckpt", denoising_state(state, whitened=False), options)
    found = read_published(plain)
    assert found.layout == "coordinate-denoising"
    assert found.model.offers == {"noise"}
    head = found.model.noise_head()
    assert float(head.normalizer.count) == 10000
    np.testing.assert_allclose(head.normalizer.deviation.numpy(), np.sqrt([16e-4, 17e-4, 18e-4]), rtol=1e-3)
    # The noise head was made from the energy head: the vectors that head ignores are the noise.
    energy = from_torchmd_net(state, CONFIG)
    features = energy.backbone(batch, SparseOf(batch))
    blocks = energy.heads["energy"].readout.atoms.gated  # type: ignore[union-attr]
    first, second = blocks.first, blocks.second
    expected = second(*first(features.scalar, features.vector))[1][..., 0]
    noise = found.model.eval()(batch, ["noise"])["noise"]
    np.testing.assert_allclose(noise.detach().numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    whitened = lightning(tmp_path / "white.ckpt", denoising_state(state), options)
    config = read_published(whitened, "frad").backbone
    assert isinstance(config, EquivariantTransformerConfig)
    assert config.vector_norm == "whitened_compatible"


def SparseOf(batch: Batch) -> Any:  # noqa: N802
    from basinet.structures.sparse import SparseNeighbors

    return SparseNeighbors(batch, CONFIG.cutoff)


def test_every_tensor_of_a_denoising_checkpoint_is_used_or_known(
    tmp_path: Path, state: dict[str, Tensor], options: dict[str, Any]
) -> None:
    whole = denoising_state(state)
    with pytest.raises(ValueError, match="tensors this network does not use: extra"):
        read_published(lightning(tmp_path / "a", whole | {"extra": torch.ones(1)}, options))
    key = "output_model_noise.output_network.0.vec1_proj.weight"
    with pytest.raises(ValueError, match=f"has no tensor {key}"):
        read_published(lightning(tmp_path / "b", {k: v for k, v in whole.items() if k != key}, options))
    layers = whole | {"representation_model.vec_norms.0.weight": torch.ones(32)}
    with pytest.raises(ValueError, match="normalises scalars and vectors after every layer"):
        read_published(lightning(tmp_path / "c", layers, options), "frad")


def test_the_wrong_code_is_named(tmp_path: Path, state: dict[str, Tensor], options: dict[str, Any]) -> None:
    file = lightning(tmp_path / "et.ckpt", state, options)
    with pytest.raises(ValueError, match="has the layout of torchmd-net, and 3d-emgp was asked for"):
        read_published(file, "3d-emgp")
    with pytest.raises(ValueError, match="has no noise head, so it is none of frad"):
        read_published(file, "frad")


def test_files_that_hold_more_than_weights_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_published(tmp_path / "nowhere")
    torch.save({"state_dict": state, "hyper_parameters": {"path": Path("a")}}, tmp_path / "objects")
    (tmp_path / "text").write_text("no checkpoint")
    (tmp_path / "empty").write_bytes(b"")
    whole = lightning(tmp_path / "whole", state, None).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    for name in ("objects", "text", "empty", "cut"):
        with pytest.raises(ValueError, match=f"{name} is no file of weights and plain values alone"):
            read_published(tmp_path / name)
    torch.save({"state_dict": {}}, tmp_path / "nothing")
    with pytest.raises(ValueError, match="nothing holds no weights"):
        read_published(tmp_path / "nothing")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="no layout that is known; the first tensors are weight"):
        read_published(tmp_path / "other")


def test_the_released_checkpoint_of_3d_emgp_is_converted_by_the_command(tmp_path: Path) -> None:
    out = tmp_path / "emgp.safetensors"
    found = CliRunner().invoke(app, ["convert", str(reference_checkpoint("3d-emgp/checkpoint-3dmgp")), str(out)])
    assert found.exit_code == 0, found.output
    assert "3d-emgp: 824,634 parameters" in found.output
    assert load_model(out).model.scope.elements == frozenset({1, 6, 7, 8, 9})
