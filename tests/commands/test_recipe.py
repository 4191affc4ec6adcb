"""Recipes: what is left out keeps its default, what is wrong is named, what is written is read back."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from basinet.commands.assay.recipe import AssayRecipe
from basinet.commands.recipe import FinetuneRecipe, LaunchConfig, PretrainRecipe, load_recipe, read_yaml, save_recipe
from basinet.config import adapter, dump_settings
from basinet.objectives.methods import (
    CoordinateDenoisingConfig,
    EnergyForcesConfig,
    ForceAndDenoiseConfig,
    ForcesConfig,
)
from basinet.options import describe

KINDS = [PretrainRecipe, FinetuneRecipe]
DATA = "data=molecules.xyz"


def load(kind, *overrides):
    return load_recipe(kind, None, [DATA, *overrides])


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_data_must_be_given(kind):
    assert load(kind) == kind(data=Path("molecules.xyz"))


def test_setting_one_option_of_a_group_keeps_what_else_this_recipe_has_there():
    recipe = load(FinetuneRecipe, "training.n_steps=7", "training.optimizer.learning_rate=0.1")
    plain = load(FinetuneRecipe)
    assert recipe.training.n_steps == 7
    assert recipe.training.optimizer.learning_rate == 0.1
    assert recipe.training.batch_size == plain.training.batch_size == 8
    assert recipe.training.optimizer.warmup_steps == plain.training.optimizer.warmup_steps == 50
    assert load(PretrainRecipe, "training.n_steps=7").training.batch_size == 64


def test_a_file_may_set_one_option_of_a_group_too(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: a.xyz\ntraining:\n  optimizer:\n    clip_norm: null\n")
    recipe = load_recipe(FinetuneRecipe, path, ["training.seed=4"])
    assert recipe.training.optimizer.clip_norm is None
    assert recipe.training.optimizer.learning_rate == 5e-4
    assert recipe.training.seed == 4


def test_later_wins_file_then_override_then_argument(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: file.xyz\nsplit_seed: 1\n")
    assert load_recipe(FinetuneRecipe, path, []).split_seed == 1
    assert load_recipe(FinetuneRecipe, path, ["split_seed=2", "split_seed=3"]).split_seed == 3
    assert load_recipe(FinetuneRecipe, path, ["data=override.xyz"], data="given.xyz").data == Path("given.xyz")
    assert load_recipe(FinetuneRecipe, path, [], data=None).data == Path("file.xyz")


def test_an_option_of_the_same_objective_keeps_its_other_options():
    assert load(PretrainRecipe, "objective.sigma=0.1").objective == ForceAndDenoiseConfig(sigma=0.1)


@pytest.mark.parametrize(
    "overrides", [["objective.kind=forces", "objective.loss=l1"], ["objective.loss=l1", "objective.kind=forces"]]
)
def test_another_objective_replaces_the_group_in_whatever_order_its_options_come(overrides):
    assert load(PretrainRecipe, *overrides).objective == ForcesConfig(loss="l1")


def test_another_objective_does_not_inherit_options_of_the_same_name():
    """Both have a sigma; the one of the file belongs to the objective that is gone."""
    recipe = load(PretrainRecipe, "objective={kind: coordinate_denoising}")
    assert recipe.objective == CoordinateDenoisingConfig()


def test_a_file_may_change_the_objective_and_an_override_its_options(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: a.xyz\nobjective:\n  kind: energy_forces\n  energy: 2\n")
    assert load_recipe(PretrainRecipe, path, ["objective.forces=3"]).objective == EnergyForcesConfig(
        energy=2.0, forces=3.0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["training.optimizer.clip_norm=null", "training.optimizer.ema_decay=null", "from=a model.safetensors"],
        ["objective.kind=forces", "units.energy_unit=kcal/mol", "units.level_of_theory=ωB97X-D/6-31G*"],
        ["model.n_features=16", "model.n_heads=4", "launch.threads=2"],
    ],
)
def test_a_recipe_written_and_read_again_is_the_same(tmp_path, kind, overrides):
    recipe = load(kind, *overrides)
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(kind, tmp_path / "recipe.yaml", []) == recipe
    assert read_yaml(tmp_path / "recipe.yaml") == dump_settings(recipe)


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_recipe_holds_every_option(tmp_path, kind):
    save_recipe(load(kind), tmp_path / "recipe.yaml")
    written = set(flat(read_yaml(tmp_path / "recipe.yaml")))
    options = {o.name for o in describe(kind)}
    assert written <= options
    groups_to_choose = ("objective.", "model.", "replay.")  # only the options of the chosen one are written
    assert {name for name in options - written if not name.startswith(groups_to_choose)} == set()


def flat(values, prefix=""):
    for key, value in values.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_every_problem_is_named_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "datta": "a.xyz",
                "split_seed": "first",
                "training": {"n_steps": "many", "optimizer": {"learning_rate": -1.0, "momentum": 0.9}},
                "objective": {"kind": "forces", "loss": "l2", "energy": 1.0},
                "launch": {"accelerator": "tpu"},
            }
        )
    )
    with pytest.raises(ValueError, match=r"bad\.yaml:\n") as caught:
        load_recipe(FinetuneRecipe, path, ["model.n_layer=3"])
    message = str(caught.value)
    for problem in (
        "data: must be given",
        "unknown option datta",
        "split_seed: got 'first'; input should be a valid integer",
        "training.n_steps: got 'many'",
        "training.optimizer.learning_rate must be positive, got -1.0",
        "unknown option training.optimizer.momentum",
        "objective.loss: got 'l2'; input should be 'norm', 'l1' or 'mse'",
        "unknown option objective.energy",
        "launch.accelerator: got 'tpu'; input should be 'auto', 'cpu' or 'cuda'",
        "unknown option model.n_layer",
    ):
        assert f"  {problem}" in message, problem
    assert message.count("\n") == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.n_steps=0", "training.n_steps must be at least 1, got 0"),
        ("training.optimizer.learning_rate=-1", "training.optimizer.learning_rate must be positive, got -1"),
        ("objective.sigma=0", "objective.sigma must be positive"),
        ("model.n_heads=7", "model: n_heads must divide n_features, got 7 heads for 64 features"),
        ("validation_fraction=1", "validation_fraction must be less than 1, got 1"),
        ("launch.threads=0", "launch.threads must be at least 1, got 0"),
        ("objective.kind=magic", "objective.kind: got 'magic'; expected one of 'force_and_denoise', "),
        ("training=5", "training: got 5"),
        ("training=null", "training: got None"),
        ("training.n_steps.x=5", "training.n_steps: got {'x': 5}"),
        ("training.n_steps=1.5", "training.n_steps: got 1.5"),
        ("training.=1", "unknown option training."),
        ("training..n_steps=1", "unknown option training."),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_was_got(override, message):
    with pytest.raises(ValueError, match="recipe:\n") as caught:
        load(PretrainRecipe, override)
    assert f"  {message}" in str(caught.value)


@pytest.mark.parametrize("override", ["n_steps", "=5", ""])
def test_an_override_without_key_or_value_says_how_one_looks(override):
    with pytest.raises(ValueError, match="expected key=value, got .*for example training.n_steps=500"):
        load(PretrainRecipe, override)


@pytest.mark.parametrize("override", ["data=[1", "data={a: b", "data='x"])
def test_an_override_that_is_no_yaml_is_refused(override):
    with pytest.raises(ValueError, match="the value is not YAML"):
        load(PretrainRecipe, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [1", "is not a YAML file"),
        ("data: a\n\tb: c", "is not a YAML file"),
        ("- a\n- b\n", "expected options, one 'key: value' a line, got list"),
        ("", "got NoneType"),
        ("just words", "got str"),
        ("!!python/object/apply:os.system ['true']", "is not a YAML file"),
        ("data: a.xyz\n1: 2\n", "1: "),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml") as caught:
        load_recipe(PretrainRecipe, path, [])
    assert message in str(caught.value)


def test_a_binary_file_is_no_recipe(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="is not a YAML file"):
        read_yaml(path)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_has_a_text_and_a_kind(kind):
    options = list(describe(kind))
    assert all(option.text.endswith(".") for option in options)
    assert all(option.kind for option in options)
    names = {option.name for option in options}
    assert {"data", "from", "training.n_steps", "training.optimizer.schedule", "model.n_features"} <= names
    assert {"objective.kind", "objective.sigma", "objective.loss", "objective.energy", "launch.devices"} <= names
    assert "start" not in names


def test_the_defaults_shown_are_those_of_the_recipe_and_not_of_the_group():
    shown = {kind: {o.name: o.default for o in describe(kind)} for kind in KINDS}
    assert shown[PretrainRecipe]["training.batch_size"] == "64"
    assert shown[FinetuneRecipe]["training.batch_size"] == "8"
    assert shown[FinetuneRecipe]["training.optimizer.learning_rate"] == "0.0005"
    assert shown[PretrainRecipe]["data"] == "required"
    assert shown[PretrainRecipe]["from"] == "null"


def test_allowed_values_are_listed():
    options = {o.name: o.kind for o in describe(PretrainRecipe)}
    assert options["launch.accelerator"] == "auto | cpu | cuda"
    assert options["training.optimizer.clip_norm"] == "number | null"


def test_recipes_cannot_be_changed_after_they_were_read():
    with pytest.raises(AttributeError):
        load(PretrainRecipe).launch = LaunchConfig()


@pytest.mark.parametrize(("text", "value"), [("false", False), ("true", True), ("no", False)])
def test_a_switch_is_what_it_says_and_no_other_word(text, value):
    recipe = load_recipe(PretrainRecipe, None, ["data=x", f"model.vector_cutoff={text}"])
    assert recipe.model.vector_cutoff is value
    with pytest.raises(ValueError, match=r"model\.vector_cutoff"):
        load_recipe(PretrainRecipe, None, ["data=x", "model.vector_cutoff='False '"])


@pytest.mark.parametrize("kind", [PretrainRecipe, FinetuneRecipe, AssayRecipe])
def test_words_that_an_option_takes_are_words_in_yaml(kind: type) -> None:
    words = {
        value for value in enums(adapter(kind).json_schema(by_alias=True)) if isinstance(value, str)
    }  # off and yes are not: YAML reads truth values
    assert len(words) > 10
    assert {word for word in words if yaml.safe_load(word) != word} == set()


def enums(schema: object) -> Iterator[object]:
    """Yield what the options of a schema are chosen from."""
    if isinstance(schema, dict):
        yield from schema.get("enum", [])
        for part in schema.values():
            yield from enums(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from enums(part)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("trainig.n_steps=5", "training.n_steps"),
        ("n_steps=5", "training.n_steps"),
        ("training.optimizer.learning_rte=0.1", "training.optimizer.learning_rate"),
        ("objective.forcs=1", "objective.forces"),
        ("datta=qm9", "data"),
    ],
)
def test_an_unknown_option_suggests_the_nearest(override: str, meant: str) -> None:
    name = override.partition("=")[0]
    with pytest.raises(ValueError, match=re.escape(f"unknown option {name}; did you mean {meant}?")):
        load(PretrainRecipe, override)


def test_an_unknown_option_near_no_other_suggests_nothing() -> None:
    with pytest.raises(ValueError, match="unknown option objective.colour$"):
        load(PretrainRecipe, "objective.colour=red")
