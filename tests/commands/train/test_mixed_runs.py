"""Pre-training on several stores and files: what it does with them, and what it refuses."""

import json
import os
import signal

import numpy as np
import pytest

from basinet.commands.recipe import SourceConfig, UnitsConfig
from basinet.commands.run_directory import DATA_FILE, LAST_FILE, MODEL_FILE
from basinet.commands.train.pretrain import pretrain
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.stream.splits import Split
from basinet.files import read_torch
from basinet.models.checkpoint import load_model
from basinet.objectives.methods import EnergyForcesConfig, EtOreoConfig, ForceAndDenoiseConfig, ForcesConfig, FradConfig
from basinet.training.interrupt import InterruptedRunError
from basinet.training.state import STATE_FILE
from molecules import from_smiles
from small_runs import (
    ATOMIC_ENERGIES,
    differences,
    frames,
    make_store,
    make_xyz,
    pretrain_recipe,
    read_lines,
    spring_molecule,
    training,
    without_labels,
)

MINIMA, MOVED = ["H2O", "HCN", "NH3", "H2CO", "CH4", "CH3OH"], ["H2O", "NH3", "CH4"]


@pytest.fixture(scope="module")
def minima(tmp_path_factory):
    """Return a store of minima without labels."""
    molecules = [without_labels(spring_molecule(name, 0.0, 0), "energy", "forces") for name in MINIMA]
    return make_store(tmp_path_factory.mktemp("minima") / "minima", molecules)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Return a larger store of labelled frames, of some of the same compounds."""
    molecules = [spring_molecule(name, 0.05, seed) for name in MOVED for seed in range(1, 9)]
    return make_store(tmp_path_factory.mktemp("moved") / "moved", molecules)


def run(tmp_path, data, say=lambda line: None, **changes):
    recipe = pretrain_recipe(data, **{"objective": EtOreoConfig()} | changes)
    return pretrain(recipe, tmp_path / "run", say=say)


def sources(*paths):
    return tuple(p if isinstance(p, SourceConfig) else SourceConfig(path=p) for p in paths)


def test_a_mixture_trains_every_term_and_logs_it_source_by_source(tmp_path, minima, moved):
    lines = []
    run(tmp_path, sources(minima, moved), lines.append)
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    train = [r for r in records if r["kind"] == "train"]
    for record in train:
        assert record["forces/moved"] == record["forces"]  # minima have no labels
        assert record["zero_force/minima"] == record["zero_force"]
        assert record["denoising/minima"] == record["denoising"]
        assert not {"forces/minima", "zero_force/moved", "denoising/moved"} & set(record)
    validation = next(r for r in records if r["kind"] == "validation")
    assert {"force_mae", "force_mae/moved", "loss/moved", "loss/minima", "zero_force/minima"} <= set(validation)
    assert any(line.startswith("moved: ") and "% of the molecules of a step" in line for line in lines)


def test_the_record_and_the_model_name_all_sources(tmp_path, minima, moved):
    run(tmp_path, sources(minima, moved), training=training(n_steps=2))
    record = json.loads((tmp_path / "run" / DATA_FILE).read_text())
    assert [s["name"] for s in record["sources"]] == ["minima", "moved"]
    assert [s["first"] for s in record["sources"]] == [0, 6]
    for source, path in zip(record["sources"], (minima, moved), strict=True):
        assert source["fingerprint"] == MoleculeStore.open(path).fingerprint
    n = [s["n_train"] for s in record["sources"]]
    share = np.sqrt(n) / np.sqrt(n).sum()  # temperature 2
    assert [s["probability"] for s in record["sources"]] == pytest.approx(share)
    split = Split.load(tmp_path / "run" / "split.json")
    assert len(split.train) == sum(n) and record["split"] == split.hash
    model = load_model(tmp_path / "run" / MODEL_FILE).model
    assert model.scope.elements == {1, 6, 7, 8}
    assert model.scope.level_of_theory == "springs"


def test_validation_terms_are_means_over_all_sources_together(tmp_path, minima, moved):
    half = SourceConfig(path=make_store(tmp_path / "half", frames(["HCN", "H2CO"], per_compound=6)))
    run(tmp_path, sources(moved, half), objective=ForcesConfig(), training=training(n_steps=1))
    validation = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]
    record = json.loads((tmp_path / "run" / DATA_FILE).read_text())
    split, means, atoms = Split.load(tmp_path / "run" / "split.json"), [], []
    for source in record["sources"]:
        store = MoleculeStore.open(source["path"])
        inside = split.validation - source["first"]
        inside = inside[(inside >= 0) & (inside < len(store))]
        atoms.append(int(store.atoms_per_molecule[inside].sum()))
        means.append(validation[f"forces/{source['name']}"])
    assert validation["forces"] == pytest.approx(np.average(means, weights=atoms))
    assert validation["loss"] == pytest.approx(validation["forces"])


def test_one_path_in_a_list_may_be_called_minima(tmp_path):
    molecules = [spring_molecule(name, 0.0, 0) for name in MINIMA]
    file = make_xyz(tmp_path / "minima.xyz", molecules)  # a file does not say which frames are minima
    source = SourceConfig(path=file, is_equilibrium=True)
    run(tmp_path, (source,), objective=ForceAndDenoiseConfig(), training=training(n_steps=1))
    assert json.loads((tmp_path / "run" / DATA_FILE).read_text())["sources"][0]["is_equilibrium"] is True


def test_weights_replace_the_temperature(tmp_path, minima, moved):
    data = SourceConfig(path=minima, weight=3.0), SourceConfig(path=moved, weight=1.0)
    run(tmp_path, data, training=training(n_steps=1))
    record = json.loads((tmp_path / "run" / DATA_FILE).read_text())
    assert [s["probability"] for s in record["sources"]] == [0.75, 0.25]


def test_an_interrupted_mixture_goes_on_bit_for_bit(tmp_path, minima, moved):
    recipe = pretrain_recipe(sources(minima, moved), objective=EtOreoConfig(), training=training(n_steps=8))

    def interrupt(progress):
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    pretrain(recipe, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        pretrain(recipe, tmp_path / "cut", on_progress=interrupt)
    pretrain(recipe, tmp_path / "cut", resume=True)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert differences(read_torch(whole / STATE_FILE), read_torch(cut / STATE_FILE)) == []
    assert read_lines(whole / "metrics.jsonl") == read_lines(cut / "metrics.jsonl")
    assert (whole / LAST_FILE).read_bytes() == (cut / LAST_FILE).read_bytes()


def refused(tmp_path, data, message, **changes):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tmp_path, data, **changes)
    assert not (tmp_path / "run").exists()


def test_the_same_data_twice_is_refused(tmp_path, moved):
    again = make_store(tmp_path / "again", [spring_molecule(n, 0.05, seed) for n in MOVED for seed in range(1, 9)])
    refused(tmp_path, sources(moved, again), "the sources moved and again hold the same data", objective=ForcesConfig())


def test_sources_of_one_name_are_refused(tmp_path, moved):
    refused(tmp_path, sources(moved, moved), "2 sources are called 'moved'")


def test_a_source_no_term_is_for_is_refused_by_name(tmp_path, minima, moved):
    message = r"source minima: none of \d conformations has all that a term of the loss \(forces\)"
    refused(tmp_path, sources(minima, moved), message, objective=ForcesConfig())


def test_a_source_that_is_missing_damaged_or_empty_is_named(tmp_path, minima, moved):
    refused(tmp_path, sources(moved, tmp_path / "nowhere.xyz"), "source nowhere: .*does not exist")
    (tmp_path / "bad.xyz").write_text("3\nwater\nO 0 0")
    refused(tmp_path, sources(moved, tmp_path / "bad.xyz"), "source bad: ")
    StoreWriter.open(tmp_path / "empty", level_of_theory="", source="", settings={}).finish()
    refused(tmp_path, sources(moved, tmp_path / "empty"), "source empty: .* no molecules")


def test_weights_of_some_sources_only_are_refused(tmp_path, minima, moved):
    data = SourceConfig(path=minima, weight=1.0), SourceConfig(path=moved)
    refused(tmp_path, data, "1 of 2 sources have a weight; give one to all or to none")


def test_rotor_noise_without_bonds_names_the_source(tmp_path):
    molecules = [spring_molecule(name, 0.0, 0) for name in MINIMA]
    bonded = [from_smiles(s) for s in ("CCO", "CCC", "CCN", "COC", "CCF")]
    data = make_xyz(tmp_path / "unbonded.xyz", molecules), make_store(tmp_path / "bonded", bonded)
    marked = [SourceConfig(path=path, is_equilibrium=True) for path in data]
    only_those = {"objective": FradConfig(), "units": UnitsConfig(bonds="file")}
    refused(tmp_path, tuple(marked), "source unbonded: none of .* has all that a term of the loss", **only_those)


def two_levels(tmp_path, levels, shift=100.0):
    """Return two sources whose energies differ by a shift of each atom."""
    first = frames(["H2O", "HCN", "NH3"], per_compound=4)
    second = [
        type(m)(
            atomic_numbers=m.atomic_numbers,
            positions=m.positions,
            labels={**m.labels, "energy": m.labels["energy"] + shift * m.n_atoms},
            smiles=m.smiles,
        )
        for m in frames(["H2CO", "CH4"], per_compound=4)
    ]
    paths = make_xyz(tmp_path / "first.xyz", first), make_xyz(tmp_path / "second.xyz", second)
    return tuple(
        SourceConfig(path=p, units=UnitsConfig(level_of_theory=level)) for p, level in zip(paths, levels, strict=True)
    )


@pytest.mark.parametrize("levels", [("PBE", "B3LYP"), ("", ""), ("PBE", "")])
def test_energies_of_several_levels_are_not_fitted_together(tmp_path, levels):
    message = "the loss fits energies, and those of the sources are not known to be of one level of theory"
    refused(tmp_path, two_levels(tmp_path, levels), message, objective=EnergyForcesConfig())


def test_energies_of_one_level_are_fitted_together(tmp_path):
    data = two_levels(tmp_path, ("PBE", "PBE"), shift=0.0)
    run(tmp_path, data, objective=EnergyForcesConfig(), training=training(n_steps=1))
    assert load_model(tmp_path / "run" / LAST_FILE).model.scope.level_of_theory == "PBE"


def test_energies_that_are_left_out_do_not_count(tmp_path):
    first, second = two_levels(tmp_path, ("PBE", "B3LYP"))
    second = SourceConfig(path=second.path, units=second.units, leave_out=("energy",))
    run(tmp_path, (first, second), objective=EnergyForcesConfig(), training=training(n_steps=1))


def test_reference_energies_are_those_of_the_level_with_most_energies(tmp_path):
    lines = []
    data = two_levels(tmp_path, ("PBE", "B3LYP"))
    run(tmp_path, data, lines.append, objective=ForcesConfig(), training=training(n_steps=1))
    model = load_model(tmp_path / "run" / LAST_FILE).model
    assert model.scope.level_of_theory == "PBE; B3LYP"
    water = float(2 * model.energy_scale.references[1] + model.energy_scale.references[8])
    assert water == pytest.approx(2 * ATOMIC_ENERGIES["H"] + ATOMIC_ENERGIES["O"], abs=1.0)
    assert "reference energies are fitted to first (level of theory: PBE)" in lines


def test_units_of_the_recipe_are_for_files_and_refused_where_there_is_none(tmp_path, minima, moved):
    refused(tmp_path, sources(minima, moved), "no source is a file", units=UnitsConfig(energy_unit="eV"))
    energies = make_xyz(tmp_path / "file.xyz", frames(["HCN", "CH3OH"]))
    units = UnitsConfig(level_of_theory="springs")
    run(tmp_path, sources(moved, energies), units=units, objective=EnergyForcesConfig(), training=training(n_steps=1))
    assert load_model(tmp_path / "run" / LAST_FILE).model.scope.level_of_theory == "springs"
