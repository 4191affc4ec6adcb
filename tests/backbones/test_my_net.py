"""A backbone of one's own in one file: checked, trained, saved, and loaded again."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from basinet.backbones import build
from basinet.backbones.plugin import load_plugin
from basinet.cli import app
from basinet.commands.recipe import PretrainRecipe, load_recipe
from basinet.commands.train.pretrain import pretrain
from basinet.models.checkpoint import load_model
from basinet.testing import check_backbone
from small_runs import frames, make_store, make_xyz

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_net.py"
SIZE = ["model.kind=my_net", "model.n_features=8", "model.n_layers=1"]
STEPS = ["training.n_steps=2", "training.batch_size=4", "validation_fraction=0.3", "launch.accelerator=cpu"]


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as a new process does."""
    monkeypatch.setattr(build, "_added", {})


def test_the_example_does_what_every_backbone_must() -> None:
    check_backbone(load_plugin(EXAMPLE).MyNetConfig(n_features=16, n_layers=2).build)


def test_a_backbone_that_sees_its_place_in_space_is_found() -> None:
    module = load_plugin(EXAMPLE)

    class Lost(module.MyNet):
        def forward(self, batch, neighbors):
            scalar, vector = super().forward(batch, neighbors)
            return type(super().forward(batch, neighbors))(scalar + batch.positions[:, :1], vector)

    with pytest.raises(AssertionError, match=r"check_rotation, dense layout: energy, turned: largest relative error"):
        check_backbone(lambda: Lost(module.MyNetConfig(n_features=16, n_layers=2)))


def test_a_run_trains_it_keeps_the_file_and_the_model_is_loaded_with_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store", frames())
    options = [f"plugin={EXAMPLE}", *SIZE, "objective.kind=forces", *STEPS]
    run = pretrain(load_recipe(PretrainRecipe, None, options, data=store), tmp_path / "run")
    assert (tmp_path / "run" / "plugin.py").read_text() == EXAMPLE.read_text()
    assert type(load_model(run.model).model.backbone).__name__ == "MyNet"
    longer = [*options, "training.n_steps=2"]
    pretrain(load_recipe(PretrainRecipe, None, longer, data=store), tmp_path / "run", resume=True)
    monkeypatch.setattr(build, "_added", {})
    with pytest.raises(ValueError, match=r"'my_net', is defined in the plugin my_net.py; give that file: basinet"):
        load_model(run.model)
    loaded = load_model(run.model, plugin=EXAMPLE)
    assert isinstance(loaded.model.backbone.cutoff, float) and loaded.backbone.kind == "my_net"
    monkeypatch.setattr(build, "_added", {})
    data = make_xyz(tmp_path / "in.xyz", frames(["H2O"], 2))
    command = ["predict", str(run.model), str(data), str(tmp_path / "out.xyz")]
    assert isinstance(CliRunner().invoke(app, command).exception, ValueError)
    done = CliRunner().invoke(app, ["--plugin", str(EXAMPLE), *command])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.xyz").exists()


def test_a_kind_that_is_taken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taken.py"
    path.write_text(EXAMPLE.read_text().replace('Literal["my_net"] = "my_net"', 'Literal["egnn"] = "egnn"'))
    with pytest.raises(ValueError, match=r"taken.py: MyNetConfig has the kind 'egnn'; give it one of its own"):
        load_plugin(path)


def test_weights_are_the_same_after_saving(tmp_path: Path) -> None:
    from basinet.models.checkpoint import save_model
    from basinet.models.model import build_model

    config = load_plugin(EXAMPLE).MyNetConfig(n_features=8, n_layers=1)
    model = build_model(config.build(), ["energy"])
    save_model(model, tmp_path / "m.safetensors", config)
    again = load_model(tmp_path / "m.safetensors", EXAMPLE).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
