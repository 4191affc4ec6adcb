"""Fine-tuning on own data: reference energies, what is frozen, which level the labels are of."""

import numpy as np
import pytest
import torch

from basinet.commands.recipe import FinetuneRecipe, UnitsConfig
from basinet.commands.run_directory import LAST_FILE, MODEL_FILE
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.models.checkpoint import load_model
from basinet.models.heads.fit import fit_references
from basinet.objectives.methods import ForceAndDenoiseConfig
from basinet.structures import Molecule
from small_runs import ATOMIC_ENERGIES, finetune_recipe, frames, make_store, make_xyz, pretrain_recipe, training


def atom(symbol, energy, charge=0):
    number = {"H": 1, "C": 6, "N": 7, "O": 8}[symbol]
    return Molecule(
        atomic_numbers=np.array([number]),
        positions=np.zeros((1, 3)),
        labels={"energy": energy, "forces": np.zeros((1, 3))},
        charge=charge,
        name=symbol,
    )


ISOLATED = [atom(symbol, energy) for symbol, energy in ATOMIC_ENERGIES.items()]
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("own-data")


@pytest.fixture(scope="module")
def pretrained(directory):
    data = make_store(directory / "store", frames())
    return pretrain(pretrain_recipe(data, objective=ForceAndDenoiseConfig()), directory / "pretrained").model


@pytest.fixture(scope="module")
def with_atoms(directory):
    """Return a file of molecules and of their atoms alone, among them an ion."""
    ion = atom("O", -2050.0, charge=-1)
    return make_xyz(directory / "with-atoms.xyz", [*ISOLATED[:2], *frames(per_compound=4), *ISOLATED[2:], ion])


def run(tmp_path, data, **changes):
    said = []
    result = finetune(finetune_recipe(data, **changes), tmp_path / "run", say=said.append)
    return load_model(result.model).model, said


@pytest.mark.parametrize("start", ["scratch", "pretrained"])
def test_energies_of_isolated_atoms_become_the_reference_energies(tmp_path, pretrained, with_atoms, start):
    given = {} if start == "scratch" else {"start": str(pretrained)}
    model, said = run(tmp_path, with_atoms, references="isolated", **given)
    found = {symbol: float(model.energy_scale.references[number]) for symbol, number in NUMBERS.items()}
    assert found == pytest.approx(ATOMIC_ENERGIES)
    assert any("set to H -13.600, C -1030.100, N -1485.300, O -2042.600 eV" in line for line in said)


def test_isolated_atoms_are_never_trained_validated_or_tested_on(tmp_path, with_atoms):
    run(tmp_path, with_atoms)
    split = Split.load(tmp_path / "run" / "split.json")
    used = np.concatenate([split.train, split.validation, split.test])
    assert sorted(used.tolist()) == list(range(2, 2 + 24))  # 2 atoms, 24 molecules, 2 atoms and an ion


def test_reference_energies_can_be_given_by_element(tmp_path, with_atoms):
    given = {"H": -10.0, "C": -1000.0, "N": -1500.0, "O": -2000.0}
    model, _ = run(tmp_path, with_atoms, references=given)
    assert {s: float(model.energy_scale.references[n]) for s, n in NUMBERS.items()} == given


def test_kept_reference_energies_are_those_of_the_loaded_model(tmp_path, pretrained, with_atoms):
    model, said = run(tmp_path, with_atoms, references="keep", start=str(pretrained))
    assert torch.equal(model.energy_scale.references, load_model(pretrained).model.energy_scale.references)
    assert not any("reference energies" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"references": {"H": -13.6}}, "molecules with C, N, O and no reference energy of it; give it too"),
        ({"references": {"Xx": -13.6}}, "Xx is not an element"),
    ],
)
def test_reference_energies_that_are_missing_or_of_no_element_are_named(tmp_path, with_atoms, changes, problem):
    with pytest.raises(ValueError, match=problem):
        run(tmp_path, with_atoms, **changes)


def test_a_missing_isolated_atom_is_named(tmp_path, directory):
    data = make_xyz(tmp_path / "few.xyz", [*frames(), ISOLATED[0]])
    with pytest.raises(ValueError, match="molecules with C, N, O and no reference energy .* add a frame"):
        run(tmp_path, data, references="isolated")


def test_two_energies_of_one_atom_are_refused(tmp_path):
    data = make_xyz(tmp_path / "two.xyz", [*frames(), *ISOLATED, atom("H", -12.0)])
    with pytest.raises(ValueError, match="isolated atoms of H have the energies -13.6 and -12"):
        run(tmp_path, data, references="isolated")


@pytest.mark.parametrize(
    "changes", [{"references": "keep"}, {"freeze": 1}, {"freeze": "backbone"}, {"reference_ridge": 0.1}]
)
def test_what_needs_a_loaded_model_is_refused_from_scratch(with_atoms, changes):
    with pytest.raises(ValueError, match="are for a loaded model"):
        FinetuneRecipe(data=with_atoms, **changes)


def test_a_large_ridge_leaves_the_reference_energies_as_they_were(tmp_path, pretrained, directory):
    data = make_store(tmp_path / "data", frames(["CH3OH"], per_compound=12))
    free, _ = run(tmp_path, data, start=str(pretrained))
    before = load_model(pretrained).model.energy_scale.references
    finetune(finetune_recipe(data, start=str(pretrained), reference_ridge=1e9), tmp_path / "tight")
    tight = load_model(tmp_path / "tight" / MODEL_FILE).model.energy_scale.references
    assert (tight - before).abs().max() < 1e-5
    assert (free.energy_scale.references - before).abs().max() > 10 * (tight - before).abs().max()


def test_the_ridge_solves_its_normal_equations():
    counts = torch.zeros(5, 100, dtype=torch.float64)
    counts[:, [1, 6, 8]] = torch.randint(1, 9, (5, 3), generator=torch.Generator().manual_seed(0)).double()
    energies = torch.linspace(-3, 4, 5, dtype=torch.float64)
    found = fit_references(counts, energies, ridge=0.7).energies[[1, 6, 8]]
    c = counts[:, [1, 6, 8]]
    expected = torch.linalg.solve(c.T @ c + 0.7 * torch.eye(3, dtype=torch.float64), c.T @ energies)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("what", "kept"), [(1, ("embedding", "layers.0")), ("backbone", ("",))])
def test_what_is_frozen_keeps_the_loaded_weights_to_the_bit_and_the_rest_moves(tmp_path, pretrained, what, kept):
    data = make_store(tmp_path / "data", frames(per_compound=4))
    _, said = run(tmp_path, data, start=str(pretrained), freeze=what)
    before = load_model(pretrained).model.state_dict()
    after = load_model(tmp_path / "run" / LAST_FILE).model.state_dict()
    frozen = [k for k in after if k.startswith(tuple(f"backbone.{name}" for name in kept))]
    assert len(frozen) > 5
    assert all(torch.equal(before[k], after[k]) for k in frozen)
    moved = [k for k in after if k not in frozen and k in before and not torch.equal(before[k], after[k])]
    assert any(k.startswith("heads.energy") for k in moved)
    assert any("keep their weights" in line and "parameters are trained" in line for line in said)


def test_a_frozen_run_resumes_bit_for_bit(tmp_path, pretrained):
    data = make_store(tmp_path / "data", frames(per_compound=4))
    recipe = finetune_recipe(data, start=str(pretrained), freeze=1, training=training(n_steps=9))

    def stop(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    finetune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, tmp_path / "cut", on_progress=stop)
    finetune(recipe, tmp_path / "cut", resume=True)
    whole, cut = (load_model(tmp_path / name / LAST_FILE).model.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_more_layers_than_there_are_cannot_be_frozen(tmp_path, pretrained):
    data = make_store(tmp_path / "data", frames(per_compound=4))
    with pytest.raises(ValueError, match="freeze=7, but the network has 1 layers"):
        run(tmp_path, data, start=str(pretrained), freeze=7)


def test_it_is_said_when_the_labels_are_of_another_level_of_theory(tmp_path, pretrained):
    data = make_xyz(tmp_path / "data.xyz", frames(per_compound=4))
    model, said = run(tmp_path, data, start=str(pretrained), units=UnitsConfig(level_of_theory="DFT"))
    assert "level of theory: springs in the loaded model, DFT in the data and in the new model" in said
    assert model.scope.level_of_theory == "DFT"
    finetune(finetune_recipe(data, start=str(pretrained)), tmp_path / "again", say=said.append)
    assert any("does not say its level of theory" in line for line in said)


def test_every_parameter_of_a_backbone_before_its_last_norm_is_in_one_stage(pretrained, directory):
    backbone = load_model(pretrained).model.backbone
    staged = [id(p) for stage in backbone.stages() for p in stage.parameters()]
    assert len(staged) == len(set(staged))
    left = {name for name, p in backbone.named_parameters() if id(p) not in staged}
    assert all("norm" in name for name in left)


def test_a_store_of_atoms_alone_cannot_be_divided(tmp_path):
    data = make_store(tmp_path / "atoms", ISOLATED)
    assert len(MoleculeStore.open(data)) == 4
    with pytest.raises(ValueError, match="has 0 molecules of more than one atom"):
        run(tmp_path, data)
