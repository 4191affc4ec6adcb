"""An objective of one's own in one file."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.data import atomic_masses

from basinet.commands.recipe import PretrainRecipe, load_recipe
from basinet.commands.run_directory import LAST_FILE
from basinet.commands.train.plugin import PLUGIN_FILE, load_objective, objective_of
from basinet.commands.train.pretrain import pretrain
from basinet.config import dump_settings
from basinet.models.checkpoint import load_model
from basinet.objectives.methods import CoordinateDenoisingConfig
from basinet.structures.batch import collate
from small_runs import frames, make_store, pretrain_recipe, training

EXAMPLE = Path(__file__).parents[3] / "examples" / "my_noise.py"
ZERO_FORCE = """
from basinet.objectives.supervised import ZeroForce
from basinet.objectives.combine import Where

def objective(flag: str = "is_equilibrium"):
    return Where(flag, ZeroForce())
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("plugin") / "store", frames())


def write(path, text):
    path.write_text(text)
    return path


def test_the_noise_of_the_example_has_the_width_it_says_for_every_element():
    objective = load_objective(EXAMPLE, {"sigma": 0.1})
    batch = collate([m for m in frames() for _ in range(200)])
    noise = objective.objective.perturbation
    moved = noise(batch, torch.Generator().manual_seed(0)).batch.positions - batch.positions
    for number in (1, 6, 8):
        width = moved[batch.atomic_numbers == number].std().item()
        assert width == pytest.approx(0.1 * (atomic_masses[1] / atomic_masses[number]) ** 0.5, rel=0.05)


def test_a_run_learns_the_objective_of_a_plugin_and_keeps_a_copy_of_it(tmp_path, store):
    said = []
    result = pretrain(
        pretrain_recipe(store, plugin=EXAMPLE, plugin_options={"sigma": 0.05}), tmp_path / "run", say=said.append
    )
    assert any("loss: 1 denoising" in line for line in said)
    assert "noise" in load_model(result.model).model.offers
    assert (tmp_path / "run" / PLUGIN_FILE).read_text() == EXAMPLE.read_text()


def test_a_plugin_that_says_what_a_recipe_says_trains_the_same_weights(tmp_path, store):
    text = """
from basinet.objectives.methods import CoordinateDenoisingConfig
def objective(**options):
    return CoordinateDenoisingConfig(**options).build()
"""
    plugin = write(tmp_path / "same.py", text)
    pretrain(pretrain_recipe(store, plugin=plugin, plugin_options={"sigma": 0.04}), tmp_path / "a")
    pretrain(pretrain_recipe(store, objective=CoordinateDenoisingConfig(sigma=0.04)), tmp_path / "b")
    a, b = (load_model(tmp_path / name / LAST_FILE).model.state_dict() for name in "ab")
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_a_changed_plugin_is_not_resumed(tmp_path, store):
    plugin = write(tmp_path / "mine.py", ZERO_FORCE)
    recipe = pretrain_recipe(store, plugin=plugin, training=training(n_steps=4))
    pretrain(recipe, tmp_path / "run")
    pretrain(recipe, tmp_path / "run", resume=True)
    write(plugin, ZERO_FORCE + "\n# better\n")
    with pytest.raises(ValueError, match="was changed since the run"):
        pretrain(recipe, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("def objective(:", {}, "line 1: SyntaxError"),
        ("\n\nimport nothing_of_this_name", {}, "line 3: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def loss(): pass", {}, r"has no function objective\(\); its functions are loss"),
        ("objective = 3", {}, r"has no function objective\(\); its functions are none"),
        ("def objective(): return 3", {}, "returned int, expected an Objective"),
        ("def objective(): return 1 / 0", {}, r"objective\(\) failed: ZeroDivisionError"),
        (ZERO_FORCE, {"sigma": 1.0}, "unexpected keyword argument 'sigma'; its options are objective.flag: str"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said_in_one_line(tmp_path, text, options, problem):
    with pytest.raises(ValueError, match=problem):
        load_objective(write(tmp_path / "mine.py", text), options)


MEAN = """
import torch
from basinet.objectives.base import Objective, Term

class Mean(Term):
    name = "mean"
    requires = frozenset({"forces"})

    def loss(self, model, batch, generator):
        return model(batch, self.requires)["forces"].square()

def objective():
    return Mean()
"""
NOISE = """
from basinet.noise.base import Perturbation, Perturbed
from basinet.objectives.denoising import Denoising

class Noise(Perturbation):
    def __call__(self, batch, generator):
        x = batch.positions
        return Perturbed(batch.without_labels(), 0 * x, x.new_ones(batch.n_molecules), None)

def objective():
    return Denoising(Noise())
"""


def term_on_the_page() -> str:
    """Return the term of ``docs/new-objective.md`` as a plugin."""
    page = (EXAMPLE.parents[1] / "docs" / "new-objective.md").read_text()
    shown = textwrap.dedent(page.split("  ```python\n")[1].split("  ```\n")[0])
    head = "import torch\nfrom torch import Tensor\nfrom basinet.models.model import Model\n"
    head += "from basinet.objectives.base import Term\nfrom basinet.structures import Batch\n"
    return f"{head}{shown}\n\ndef objective():\n    return MeanForce()\n"


@pytest.mark.parametrize("text", [MEAN, NOISE, term_on_the_page()], ids=["term", "noise", "page"])
def test_a_plugin_that_keeps_the_contract_is_run(tmp_path, store, text):
    plugin = write(tmp_path / "mine.py", text)
    result = pretrain(pretrain_recipe(store, plugin=plugin, training=training(n_steps=2)), tmp_path / "run")
    assert result.fit.step == 2


@pytest.mark.parametrize(
    ("text", "before", "after", "problem"),
    [
        (MEAN, 'name = "mean"', "pass", "Mean.weights is None .NoneType., expected a dict with a value for each term"),
        (MEAN, 'frozenset({"forces"})', '"forces"', "Mean.requires is 'forces' .str., expected a frozenset of names"),
        (MEAN, '["forces"].square()', '["forces"].square().mean().item()', "AttributeError: 'float' object has no"),
        (MEAN, '["forces"]', '["force"]', "mine.py, line 10: KeyError: 'force'"),
        (
            MEAN,
            "    def loss",
            "    def counts(self, batch):\n        return {'means': 1.0}\n\n    def loss",
            r"Mean.counts\(\) has the terms \['means'\], expected those of weights: \['mean'\]",
        ),
        (
            MEAN,
            "    def loss",
            "    def counts(self, batch):\n        return {'mean': batch.molecule}\n\n    def loss",
            r"Mean.counts\(\): 'mean' is a int64 tensor of shape \[\d+\], expected a number that is not negative",
        ),
        (
            MEAN,
            "    def loss",
            "    def sums(self, model, batch, generator):\n        return {'mean': 3.0}\n\n    def loss",
            r"Mean.sums\(\): 'mean' is 3.0 \(float\), expected a float tensor without dimensions \(losses.sum\(\)\)",
        ),
        (
            MEAN,
            "    def loss",
            "    def sums(self, model, batch, generator):\n        return {'mean': batch.positions}\n\n    def loss",
            r"Mean.sums\(\): 'mean' is a float32 tensor of shape \[\d+, 3\], expected a float tensor without dimen",
        ),
        (NOISE, "x.new_ones(batch.n_molecules)", "0.1", r"Noise\(\) returned scale=0.1, expected a tensor of shape \["),
        (NOISE, "0 * x", "x[:, 0]", r"Noise\(\) returned target of shape \[\d+\], expected \[\d+, 3\]"),
        (NOISE, "0 * x", "x + gauss", "mine.py, line 8: NameError: name 'gauss' is not defined"),
        (NOISE, "return Perturbed", "return x; Perturbed", r"Noise\(\) returned Tensor, expected Perturbed\(batch, ta"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_refused_in_one_line_before_anything_is_written(
    tmp_path, store, text, before, after, problem
):
    plugin = write(tmp_path / "mine.py", text.replace(before, after))
    with pytest.raises(ValueError, match=problem) as found:
        pretrain(pretrain_recipe(store, plugin=plugin), tmp_path / "run")
    assert str(plugin) in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_missing_plugin_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no plugin .*absent.py; expected a Python file"):
        load_objective(tmp_path / "absent.py", {})


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["plugin_options.sigma=0.1"], "plugin_options sigma without a plugin"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(overrides, problem):
    with pytest.raises(ValueError, match=problem):
        load_recipe(PretrainRecipe, None, overrides, data="x")


def test_an_objective_beside_that_of_a_plugin_is_refused(tmp_path):
    plugin = write(tmp_path / "mine.py", ZERO_FORCE)
    recipe = load_recipe(PretrainRecipe, None, [f"plugin={plugin}", "objective.kind=frad"], data="x")
    with pytest.raises(ValueError, match="plugin and objective are both given"):
        objective_of(recipe)


def test_a_run_from_before_an_option_existed_is_gone_on_with(tmp_path, store):
    recipe = pretrain_recipe(store, training=training(n_steps=4))
    pretrain(recipe, tmp_path / "run")
    saved = tmp_path / "run" / "recipe.yaml"
    old = yaml.safe_load(saved.read_text())
    assert old == dump_settings(PretrainRecipe(**{**vars(recipe), "model": recipe.model}))
    del old["plugin"], old["plugin_options"]
    saved.write_text(yaml.safe_dump(old))
    assert np.isfinite(pretrain(recipe, tmp_path / "run", resume=True).fit.best)
