"""Weights of torchmd-net 3.1.0 in our network, against energies, forces and gradients that torchmd-net computed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.backbones.equivariant_transformer import (
    ET_128,
    ET_256,
    EquivariantTransformer,
    EquivariantTransformerConfig,
)
from basinet.models.checkpoint import n_parameters
from basinet.models.convert import torchmd_net as convert
from basinet.models.convert.torchmd_net import from_torchmd_net
from basinet.models.model import Layout, build_model
from basinet.structures.batch import Batch
from basinet.structures.dense import DenseNeighbors
from basinet.structures.sparse import SparseNeighbors

CONFIG = EquivariantTransformerConfig(n_features=32, n_layers=2, n_heads=4, n_basis=16, vector_cutoff=False)
EMBEDDING = "representation_model.embedding.weight"
BETAS = "representation_model.distance_expansion.betas"
VALUES = "representation_model.attention_layers.0.v_proj.weight"

OUTPUT_TOLERANCE = 1e-9
"""Relative, float64: rounding in two layers in another order of summation."""
GRADIENT_TOLERANCE = 1e-8
"""The same for gradients of forces, one more derivative away."""


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[2] / "golden" / "torchmd_et.npz") as file:
        return dict(file)


@pytest.fixture
def state(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return part(golden, "state/")


@pytest.fixture
def batch(golden: dict[str, np.ndarray]) -> Batch:
    of_golden = {key: torch.from_numpy(golden[key]) for key in ("atomic_numbers", "positions", "molecule")}
    return Batch(**of_golden, n_molecules=3)


@pytest.fixture(params=[DenseNeighbors, SparseNeighbors])
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


def part(golden: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(golden[key]) for key in golden if key.startswith(prefix)}


def relative_error(ours: Tensor, published: Tensor | np.ndarray) -> float:
    expected = torch.as_tensor(published)
    assert ours.shape == expected.shape
    return float((ours.detach() - expected).abs().max() / expected.abs().max())


def test_energies_and_forces_are_those_of_torchmd_net(
    golden: dict[str, np.ndarray], state: dict[str, Tensor], batch: Batch, layout: Layout
) -> None:
    found = from_torchmd_net(state, CONFIG)(batch, ["energy", "forces"], layout=layout)
    for key, value in found.items():
        error = relative_error(value, golden[key])
        assert error < OUTPUT_TOLERANCE, f"{key}: relative error {error:.2e}"


def test_features_are_those_of_torchmd_net(
    golden: dict[str, np.ndarray], state: dict[str, Tensor], batch: Batch, layout: Layout
) -> None:
    features = from_torchmd_net(state, CONFIG).backbone(batch, layout(batch, CONFIG.cutoff))
    for key, value in features._asdict().items():
        error = relative_error(value, golden[key])
        assert error < OUTPUT_TOLERANCE, f"{key}: relative error {error:.2e}"


def test_gradients_of_a_force_loss_are_those_of_torchmd_net(
    golden: dict[str, np.ndarray], state: dict[str, Tensor], batch: Batch, layout: Layout
) -> None:
    model = from_torchmd_net(state, CONFIG).train()
    found = model(batch, ["energy", "forces"], layout=layout)
    (found["forces"].square().sum() + found["energy"].square().sum()).backward()
    # Gradients are laid out like weights, so the converter puts those of torchmd-net where ours are.
    published = from_torchmd_net(state | part(golden, "grad/"), CONFIG)
    for (key, ours), theirs in zip(model.named_parameters(), published.parameters(), strict=True):
        assert ours.grad is not None, key
        theirs = theirs.detach()
        error = float((ours.grad - theirs).abs().max() / theirs.abs().max().clamp_min(1e-3))
        assert error < GRADIENT_TOLERANCE, f"{key}: relative error {error:.2e}"


def test_control_values_in_global_thirds_are_another_function(
    golden: dict[str, np.ndarray], state: dict[str, Tensor], batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_they_lie(rows: Tensor, n_heads: int) -> Tensor:
        return rows

    monkeypatch.setattr(convert, "_blocks_of_heads", as_they_lie)
    found = from_torchmd_net(state, CONFIG)(batch, ["energy", "forces"])
    assert relative_error(found["energy"], golden["energy"]) > 1e-3
    assert relative_error(found["forces"], golden["forces"]) > 1e-2


@pytest.mark.parametrize("key", [EMBEDDING, VALUES, BETAS, "std", "mean"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(state: dict[str, Tensor], key: str) -> None:
    del state[key]
    with pytest.raises(ValueError, match=f"the checkpoint has no tensor {key}; is it of another network"):
        from_torchmd_net(state, CONFIG)


def test_a_checkpoint_with_a_tensor_too_many_is_refused(state: dict[str, Tensor]) -> None:
    state["output_model.dipole"] = torch.zeros(3)
    with pytest.raises(ValueError, match="tensors this network does not use: output_model.dipole"):
        from_torchmd_net(state, CONFIG)


def test_a_checkpoint_of_more_layers_than_the_settings_say_is_refused(state: dict[str, Tensor]) -> None:
    one_layer = EquivariantTransformerConfig(n_features=32, n_layers=1, n_heads=4, n_basis=16, vector_cutoff=False)
    with pytest.raises(ValueError, match="tensors this network does not use: .*attention_layers.1.dk_proj.bias"):
        from_torchmd_net(state, one_layer)


def test_a_checkpoint_of_another_width_is_refused_with_the_shapes(state: dict[str, Tensor]) -> None:
    wider = EquivariantTransformerConfig(n_features=64, n_layers=2, n_heads=4, n_basis=16, vector_cutoff=False)
    with pytest.raises(ValueError, match=r"of another size than the settings say: .*embedding.weight \[100, 32\]"):
        from_torchmd_net(state, wider)


def test_trained_radial_functions_are_refused(state: dict[str, Tensor]) -> None:
    state[BETAS] = state[BETAS] * torch.linspace(1, 2, 16)
    with pytest.raises(ValueError, match="trained radial functions, which this network does not have"):
        from_torchmd_net(state, CONFIG)


def test_a_mean_energy_per_molecule_is_refused(state: dict[str, Tensor]) -> None:
    state["mean"] = torch.tensor(-3.0)
    with pytest.raises(ValueError, match="a mean energy per molecule, which has no place in a sum over atoms"):
        from_torchmd_net(state, CONFIG)


def test_the_scale_of_the_energy_is_that_of_the_checkpoint(
    golden: dict[str, np.ndarray], state: dict[str, Tensor], batch: Batch
) -> None:
    state["std"] = 2 * state["std"]
    found = from_torchmd_net(state, CONFIG)(batch, ["energy"])
    assert relative_error(found["energy"], 2 * golden["energy"]) < OUTPUT_TOLERANCE


@pytest.mark.parametrize(
    ("config", "whitening_weights", "published"),
    # The published count of the force nets is with the norm of vectors, one weight per feature, which ours are without.
    [(ET_256, 0, 7_210_244), (ET_128, 128, 1_426_564)],
)
def test_the_published_sizes_have_the_published_number_of_parameters(
    config: EquivariantTransformerConfig, whitening_weights: int, published: int
) -> None:
    model = build_model(EquivariantTransformer(config), ["energy", "noise"])
    assert n_parameters(model) + whitening_weights == published
