"""The released weights of 3D-EMGP in our network, against numbers computed with the authors' layers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.backbones.base import Layout
from basinet.models.checkpoint import load_model, n_parameters, save_model
from basinet.models.convert.emgp import EMGP_EGNN, from_emgp, read_emgp
from basinet.models.heads.property import PooledReadout
from basinet.models.model import Model, with_outputs, without_pretraining_heads
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.sparse import SparseNeighbors
from molecules import BENZENE, bonded, molecule
from reference import reference_checkpoint

TOLERANCE = 1e-6
"""The known numbers are given to six digits after the point, energies to nine."""
FORCE_TOLERANCE = 6e-6
"""Forces are given to five."""

CLEAN = [
    [-0.047131, 0.664389, 0.0],
    [-0.047131, -0.758551, 0.0],
    [-1.092995, 0.969785, 0.0],
    [0.878534, -1.048458, 0.0],
    [0.437145, 1.080376, 0.891772],
    [0.437145, 1.080376, -0.891772],
]
DISPLACEMENT = [
    [0.10, -0.05, 0.02],
    [-0.03, 0.08, -0.06],
    [0.04, 0.01, 0.09],
    [-0.07, -0.02, 0.05],
    [0.02, 0.06, -0.08],
    [0.0, -0.10, 0.03],
]
FORCES = [
    [-0.63994, 0.46896, 0.02299],
    [-0.30701, -0.35491, 0.52390],
    [-0.21183, 0.53083, -0.28255],
    [0.85925, -0.46631, 0.10735],
    [0.24759, -0.76570, 0.15559],
    [0.05194, 0.58713, -0.52729],
]
BONDS = [[0, 1], [0, 2], [1, 3], [0, 4], [0, 5]]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    path = reference_checkpoint("3d-emgp/checkpoint-3dmgp")
    return dict(torch.load(path, map_location="cpu", weights_only=True)["model"])


@pytest.fixture(scope="module")
def model(state: dict[str, Tensor]) -> Model:
    return from_emgp(state).double().eval()


@pytest.fixture(params=[DenseNeighbors, SparseNeighbors])
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


def methanol(positions: np.ndarray) -> Batch:
    """Return methanol beside a larger molecule, so that the dense layout pads it."""
    ours = molecule([6, 8, 1, 1, 1, 1], positions, bonds=np.array(BONDS))
    return collate([ours, bonded(BENZENE)], dtype=torch.float64)


@pytest.fixture
def clean() -> Batch:
    return methanol(np.array(CLEAN))


@pytest.fixture
def noisy() -> Batch:
    return methanol(np.array(CLEAN) + np.array(DISPLACEMENT))


def test_energy_and_features_of_methanol_are_the_known_ones(model: Model, clean: Batch, layout: Layout) -> None:
    features = model.backbone(clean, layout(clean, None))
    energy = float(model(clean, ["energy"], layout=layout)["energy"][0].detach())
    assert energy == pytest.approx(1.748570311, abs=1e-9)
    assert features.scalar[0, :4].tolist() == pytest.approx([0.716075, 0.907169, 0.183376, 0.336806], abs=TOLERANCE)
    assert float(features.scalar[:6].sum().detach()) == pytest.approx(-16.250995, abs=TOLERANCE)
    readout = model.energy_head().readout
    assert isinstance(readout, PooledReadout)
    pooled = readout.pool(features, clean)[0].detach()
    assert float(pooled.norm()) == pytest.approx(17.123567, abs=TOLERANCE)
    assert pooled[:4].tolist() == pytest.approx([0.340184, -0.398553, 4.144292, -0.451315], abs=TOLERANCE)


def test_energy_and_forces_of_distorted_methanol_are_the_known_ones(model: Model, noisy: Batch, layout: Layout) -> None:
    found = model(noisy, ["energy", "forces"], layout=layout)
    assert float(found["energy"][0]) == pytest.approx(2.098612020, abs=1e-9)
    expected = torch.tensor(FORCES, dtype=torch.float64)
    assert (found["forces"][:6] - expected).abs().max() < FORCE_TOLERANCE


def test_noise_levels_of_methanol_are_the_known_ones(model: Model, clean: Batch, noisy: Batch, layout: Layout) -> None:
    logits = model.noise_level(clean, noisy, layout=layout)[0].detach()
    values, classes = logits.topk(3)
    assert classes.tolist() == [38, 39, 37]
    assert values.tolist() == pytest.approx([1.1640, 1.1328, 1.1147], abs=6e-5)
    assert int(model.noise_level(clean, clean, layout=layout)[0].argmax()) == 49
    swapped = model.noise_level(noisy, clean, layout=layout)[0].detach()
    assert (swapped - logits).abs().max() > 0.1


def test_every_tensor_is_used_or_named_as_ignored(state: dict[str, Tensor], model: Model) -> None:
    assert len(state) == 106
    n_ignored, n_noise_levels = 116_480, 50
    assert n_parameters(model) + n_ignored + n_noise_levels == sum(value.numel() for value in state.values())
    for key in state:
        if "coord_mlp" not in key:
            with pytest.raises(ValueError, match=f"the checkpoint has no tensor {key.removeprefix('module.')}"):
                from_emgp({name: value for name, value in state.items() if name != key})
    with pytest.raises(ValueError, match="tensors this network does not use: model.gcl_7.edge_mlp.0.weight$"):
        from_emgp(state | {"module.model.gcl_7.edge_mlp.0.weight": torch.zeros(1)})


def test_the_wrapper_of_distributed_training_makes_no_difference(state: dict[str, Tensor], model: Model) -> None:
    bare = from_emgp({key.removeprefix("module."): value for key, value in state.items()}).double()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in bare.state_dict().items())


def test_another_prefix_is_refused(state: dict[str, Tensor]) -> None:
    renamed = {key.replace("module.model.", "module.encoder."): value for key, value in state.items()}
    with pytest.raises(
        ValueError, match="the checkpoint has no tensor model.embedding_in.weight; is it of another net"
    ):
        from_emgp(renamed)


def test_weights_of_another_size_or_ladder_are_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"of another size than the settings say: backbone.embedding.weight \[128, 3"):
        from_emgp(state | {"module.model.embedding_in.weight": torch.zeros(128, 30)})
    ladder = torch.logspace(0, -2, 50)
    with pytest.raises(
        ValueError, match=re.escape("has 50 noise levels from 1 to 0.01 Å; expected 50 from 10 to 0.01")
    ):
        from_emgp(state | {"module.sigmas": ladder})


def test_other_elements_than_those_of_the_training_set_are_refused(model: Model) -> None:
    model.scope.check(collate([BENZENE]))
    with pytest.raises(ValueError, match="the model knows the elements H C N O F, the data also has S"):
        model.scope.check(collate([molecule([16, 1, 1], [[0, 0, 0], [0, 1, 1], [0, 1, -1]])]))


def test_the_weights_of_other_elements_were_hardly_trained(state: dict[str, Tensor]) -> None:
    weight = state["module.model.embedding_in.weight"]
    limit = 300**-0.5  # of the initialisation
    moved = (weight.abs() > limit).any(0).nonzero()[:, 0].tolist()
    assert {column // 3 for column in moved} == {1, 6, 7, 8, 9}


def test_a_converted_model_comes_back_from_its_file(tmp_path: Path, state: dict[str, Tensor], noisy: Batch) -> None:
    model = from_emgp(state).eval()
    save_model(model, tmp_path / "emgp.safetensors", EMGP_EGNN)
    loaded = load_model(tmp_path / "emgp.safetensors").model.eval()
    assert loaded.scope == model.scope
    single = noisy.to(dtype=torch.float32)
    assert torch.equal(loaded(single, ["forces"])["forces"], model(single, ["forces"])["forces"])


def test_fine_tuning_starts_from_the_released_backbone_and_a_fresh_energy(model: Model, noisy: Batch) -> None:
    tuned = with_outputs(without_pretraining_heads(model, ["energy", "forces"]), ["energy", "forces"])
    assert tuned.offers == {"energy", "forces"}
    assert tuned.backbone is model.backbone
    assert len(tuned.backbone.state_dict()) == 2 + 7 * 10
    assert tuned(noisy, ["forces"])["forces"].shape == (18, 3)


def test_files_that_are_no_such_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint .*nowhere"):
        read_emgp(tmp_path / "nowhere")
    torch.save({"weights": 1}, tmp_path / "other")
    with pytest.raises(ValueError, match='other has no entry "model"; expected a checkpoint of 3D-EMGP'):
        read_emgp(tmp_path / "other")
    torch.save({"model": {}, "config": Path("a")}, tmp_path / "objects")
    with pytest.raises(ValueError, match="objects is no file of weights alone; if you trust where it comes from"):
        read_emgp(tmp_path / "objects")
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text is no file of weights alone"):
        read_emgp(tmp_path / "text")


def test_the_released_file_is_read(model: Model) -> None:
    read = read_emgp(reference_checkpoint("3d-emgp/checkpoint-3dmgp"))
    assert all(torch.equal(value.double(), model.state_dict()[key]) for key, value in read.state_dict().items())
