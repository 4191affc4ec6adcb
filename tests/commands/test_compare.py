"""Comparisons of starts: equal terms for all, and gone on with where they stopped."""

import dataclasses
import json
import shutil

import pytest

from basinet.commands.compare import CompareRecipe, compare, names_of
from basinet.commands.recipe import load_recipe, read_yaml
from basinet.commands.train.pretrain import pretrain
from basinet.config import read_settings
from basinet.data.stream.splits import Split
from basinet.models.checkpoint import load_model
from basinet.objectives.methods import ForceAndDenoiseConfig
from small_runs import TINY, frames, make_store, make_xyz, pretrain_recipe, training


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def pretrained(directory):
    data = make_store(directory / "store", frames())
    return pretrain(pretrain_recipe(data, objective=ForceAndDenoiseConfig()), directory / "pretrained").model


@pytest.fixture(scope="module")
def recipe(directory, pretrained):
    data = make_xyz(directory / "own.xyz", frames(["CH3OH", "NH3"], per_compound=15))
    return CompareRecipe(
        data=data, start=("scratch", str(pretrained)), sizes=(4, 8), seeds=2, n_test=10, training=training(n_steps=3)
    )


@pytest.fixture(scope="module")
def done(directory, recipe):
    said = []
    return compare(recipe, directory / "done", watch=lambda *_: None, say=said.append), directory / "done", said


def test_every_start_size_and_seed_has_an_error_read_from_its_run(done):
    found, out, said = done
    assert found.curves.errors.shape == (2, 2, 2)
    assert found.curves.starts == ["scratch", "pretrained"]
    one = json.loads((out / "runs" / "pretrained-8-seed1" / "results.json").read_text())
    assert found.curves.errors[1, 1, 1] == pytest.approx(1000 * one["force_mae"])
    assert "8 runs of 3 steps" in said[0]
    assert json.loads((out / "compare.json").read_text())["errors"] == found.curves.errors.tolist()


def test_all_runs_have_one_test_set_and_pairs_have_the_same_labels(done):
    _, out, _ = done
    splits = {
        (start, size, seed): Split.load(out / "runs" / f"{start}-{size}-seed{seed}" / "split.json")
        for start in ("scratch", "pretrained")
        for size in (4, 8)
        for seed in (0, 1)
    }
    assert len({tuple(s.test) for s in splits.values()}) == 1
    for seed in (0, 1):
        for size in (4, 8):
            assert splits["scratch", size, seed] == splits["pretrained", size, seed]
        assert splits["scratch", 8, seed].train[:4].tolist() == splits["scratch", 4, seed].train.tolist()
    assert splits["scratch", 4, 0].train.tolist() != splits["scratch", 4, 1].train.tolist()


def test_scratch_has_the_network_of_the_model_file(done):
    _, out, _ = done
    assert load_model(out / "runs" / "scratch-4-seed0" / "model.safetensors").backbone == TINY


def test_what_a_kill_took_is_done_again_with_the_same_numbers(recipe, done):
    """One run is lost altogether, one before it was tested, one after its first steps."""
    found, out, _ = done
    shutil.rmtree(out / "runs" / "scratch-4-seed0")
    (out / "runs" / "pretrained-8-seed1" / "results.json").unlink()
    for name in ("results.json", "state.pt", "last.safetensors"):
        (out / "runs" / "scratch-8-seed1" / name).unlink()
    alone = dataclasses.replace(recipe, processes=1)
    again = compare(alone, out, resume=True, watch=lambda *_: None, say=lambda _: None)
    assert (again.curves.errors == found.curves.errors).all()


def test_a_finished_comparison_is_only_read_again(recipe, done):
    found, out, _ = done
    runs = {p: p.stat().st_mtime_ns for p in (out / "runs").glob("*/model.safetensors")}
    again = compare(recipe, out, resume=True, watch=lambda *_: None, say=lambda _: None)
    assert (again.curves.errors == found.curves.errors).all()
    assert runs == {p: p.stat().st_mtime_ns for p in runs}


def test_another_recipe_is_not_resumed(recipe, done):
    _, out, _ = done
    other = load_recipe(CompareRecipe, None, ["sizes=[4]"], **_values(recipe))
    with pytest.raises(ValueError, match="started with another n_test, sizes, training"):
        compare(other, out, resume=True, watch=lambda *_: None, say=lambda _: None)
    with pytest.raises(ValueError, match="holds a comparison already"):
        compare(recipe, out, watch=lambda *_: None, say=lambda _: None)


def _values(recipe):
    return {"data": str(recipe.data), "from": list(recipe.start), "seeds": 2}


def test_what_is_typed_becomes_lists(tmp_path):
    typed = load_recipe(CompareRecipe, None, ["from=scratch,a.safetensors", "sizes=50,100"], data=str(tmp_path / "x"))
    assert typed.start == ("scratch", "a.safetensors")
    assert typed.sizes == (50, 100)
    one = load_recipe(CompareRecipe, None, ["from=[scratch, b.safetensors]", "sizes=50"], data=str(tmp_path / "x"))
    assert (one.start, one.sizes) == (("scratch", "b.safetensors"), (50,))


def test_the_saved_recipe_says_everything(done, recipe):
    assert read_settings(CompareRecipe, read_yaml(done[1] / "compare.yaml"), "saved") == recipe


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["from=scratch"], "two or more different starts"),
        (["from=a,a"], "two or more different starts"),
        (["from=scratch,a", "sizes=100,50"], "rising"),
        (["from=scratch,a", "sizes=0,50"], "rising"),
        (["from=scratch,a", "seeds=0"], "seeds must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(overrides, problem):
    with pytest.raises(ValueError, match=problem):
        load_recipe(CompareRecipe, None, overrides, data="x.xyz")


def test_too_few_molecules_are_counted(tmp_path, directory, pretrained):
    data = make_xyz(tmp_path / "few.xyz", frames(["NH3"], per_compound=9))
    recipe = CompareRecipe(data=data, start=("scratch", str(pretrained)), sizes=(4, 9))
    with pytest.raises(ValueError, match="has 9 molecules, too few to train on 9, validate on 1 and test on"):
        compare(recipe, tmp_path / "out", watch=lambda *_: None, say=lambda _: None)


def test_names_are_short_and_different():
    assert names_of(["scratch", "runs/a/model.safetensors", "b.safetensors"]) == ["scratch", "a", "b"]
    assert names_of(["x/a/model.safetensors", "y/a/model.safetensors"]) == ["a-1", "a-2"]
