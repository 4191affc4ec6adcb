"""YAML as users type it: a key stands once, texts stay as typed, numbers are decimal."""

from pathlib import Path

import pytest

from basinet.cli.recipes import RecipeArguments
from basinet.commands.assay.recipe import AssayRecipe
from basinet.commands.build import BuildRecipe
from basinet.commands.compare import CompareRecipe
from basinet.commands.recipe import FinetuneRecipe, PretrainRecipe, load_recipe, read_yaml
from basinet.yaml_text import parse_text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("data: a\ntraining: {n_steps: 4}\ntraining: {n_steps: 6}\n", "training"),
        ("data: a\ntraining:\n  n_steps: 4\n  n_steps: 6\n", "n_steps"),
        ("data: a\ntraining: {optimizer: {ema_decay: 0.9, ema_decay: 0.99}}\n", "ema_decay"),
        ("data: [{path: a, path: b}]\n", "path"),
        ("data: a\n'data': b\n", "data"),
    ],
)
def test_a_key_that_stands_twice_is_an_error_at_any_depth(tmp_path, text, key):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    for read in (read_yaml, lambda p: load_recipe(PretrainRecipe, p, [])):
        with pytest.raises(ValueError, match=f"recipe.yaml: the key '{key}' stands twice"):
            read(path)


def test_a_key_that_stands_twice_in_an_option_is_an_error():
    with pytest.raises(ValueError, match="the key 'n_steps' stands twice"):
        load_recipe(PretrainRecipe, None, ["data=a", "training={n_steps: 1, n_steps: 2}"])


def test_a_merge_key_is_put_under_the_keys_beside_it():
    text = "one: &a {x: 1, y: 2}\ntwo:\n  <<: *a\n  y: 3\n"
    assert str(parse_text(text)["two"]["y"].value) == "3" and parse_text(text)["two"]["x"].value == 1


NUMBERS = ["NO", "007", "010", "1", "1.50", "2024-01-05", "true", "null"]


@pytest.mark.parametrize("column", [*NUMBERS, "no", "#y", "y: mol", "[y]", "{y}", "1:30"])
def test_a_column_is_called_as_it_is_typed(column):
    assert load_recipe(AssayRecipe, None, ["data=a.csv", f"target={column}"]).target == column


@pytest.mark.parametrize("column", NUMBERS)
def test_a_column_in_a_file_is_called_as_it_is_written(tmp_path, column):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: a.csv\ntarget: {column}\n")
    assert load_recipe(AssayRecipe, path, []).target == column


def test_quotes_are_those_of_yaml():
    assert load_recipe(AssayRecipe, None, ["data=a.csv", "target='# y'"]).target == "# y"


@pytest.mark.parametrize("name", ["m #2.safetensors", "[1].safetensors", "{a}.safetensors", "007", "a: b", "NO", "1e3"])
def test_a_model_file_is_named_as_it_is_typed(name):
    assert load_recipe(FinetuneRecipe, None, ["data=a.xyz", f"from={name}"]).start == name
    assert load_recipe(PretrainRecipe, None, [f"data={name}", f"from={name}"]).start == Path(name)
    if ": " in name:
        return
    compared = load_recipe(CompareRecipe, None, ["data=a.xyz", f"from={name},scratch"])
    assert compared.start == (name, "scratch")


def test_texts_in_lists_and_groups_stay_as_typed():
    recipe = load_recipe(BuildRecipe, None, ["data=[a.xyz, 007]", "properties=['mu:D', NO:D]", "units.property_unit=1"])
    assert recipe.data == (Path("a.xyz"), Path("007")) and recipe.properties == ("mu:D", "NO:D")
    assert recipe.units.property_unit == "1"
    mixed = load_recipe(PretrainRecipe, None, ["data=[{path: 010, leave_out: [1, NO]}]"])
    assert mixed.data[0].path == Path("010") and mixed.data[0].leave_out == ("1", "NO")  # pyright: ignore


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("0", 0), ("0x10", 16), ("1:30", None)])
def test_whole_numbers_are_decimal_as_typed(text, value):
    if value is None:
        with pytest.raises(ValueError, match="split_seed"):
            load_recipe(FinetuneRecipe, None, ["data=a", f"split_seed={text}"])
    else:
        assert load_recipe(FinetuneRecipe, None, ["data=a", f"split_seed={text}"]).split_seed == value


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("off", False), ("true", True), ("1", True)])
def test_switches_take_the_words_they_took(word, value):
    assert load_recipe(FinetuneRecipe, None, ["data=a", f"launch.keep_memory={word}"]).launch.keep_memory is value


def test_null_leaves_an_option_out_where_it_may_be_left_out():
    recipe = load_recipe(AssayRecipe, None, ["data=a.csv", "target=y", "smiles=null", "time=~"])
    assert recipe.smiles is None and recipe.time is None


def test_a_home_directory_and_variables_are_replaced_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", "runs")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: ~/x.xyz\nfrom: $RUNS/m.safetensors\n")
    found = load_recipe(FinetuneRecipe, recipe, [])
    assert found.data == tmp_path / "x.xyz" and found.start == "runs/m.safetensors"
    assert load_recipe(BuildRecipe, None, ["data=['${RUNS}/a', ~/b]"]).data == (Path("runs/a"), tmp_path / "b")
    sources = load_recipe(PretrainRecipe, None, ["data=[~/a, {path: $RUNS/b}]"]).data
    assert [s.path for s in sources] == [tmp_path / "a", Path("runs/b")]  # pyright: ignore
    assert load_recipe(CompareRecipe, None, ["data=a", "from=scratch,~/m"]).start == ("scratch", f"{tmp_path}/m")


def test_a_file_whose_name_has_a_dollar_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNS", "runs")
    Path("$RUNS").touch()
    assert load_recipe(FinetuneRecipe, None, ["data=$RUNS"]).data == Path("$RUNS")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: a\nbase: recipe.yaml\n", "is its own base"),
        ("data: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: &a [1, *a]\n", "nested too deeply"),
        ("\n".join(["a0: &a0 [1, 1]", *(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]" for i in range(30))]), "more than"),
    ],
)
def test_a_recipe_that_has_no_end_is_an_error_in_one_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(PretrainRecipe, path, [])


def test_a_byte_order_mark_before_a_recipe_is_no_part_of_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: a.xyz\n", encoding="utf-8-sig")
    assert load_recipe(FinetuneRecipe, path, []).data == Path("a.xyz")


def test_a_path_may_have_an_equals_sign():
    given = RecipeArguments.parse(["a.xyz", "runs/T=300/store", "skip_invalid=true"])
    assert given.data == [Path("a.xyz"), Path("runs/T=300/store")] and given.overrides == ["skip_invalid=true"]


@pytest.mark.parametrize(("last", "is_path"), [("T=300", True), ("skip_invald=true", False), ("units.x=1", False)])
def test_the_last_argument_is_a_path_if_it_is_like_no_option(last, is_path):
    given = RecipeArguments.parse(["a.xyz", last]).with_output(last, BuildRecipe)
    assert (Path(last) in given.data) is is_path and (last in given.overrides) is not is_path
