"""A run perceives the bonds it needs, and says at its start what has none."""

import dataclasses

import numpy as np
import pytest

from basinet.backbones.egnn import EGNNConfig
from basinet.commands.recipe import SourceConfig, UnitsConfig
from basinet.commands.train.pretrain import pretrain
from basinet.data.chemistry.chemical_graph import perceive
from basinet.objectives.methods import ForcesConfig, FradConfig, UnifiedConfig
from small_runs import frames, make_store, pretrain_recipe, training


def test_minima_without_bonds_are_found_before_a_run_and_not_at_the_first_batch_that_has_one(tmp_path):
    minima = [dataclasses.replace(bonded_with_orders(m), is_equilibrium=True) for m in frames()]
    lacking = [dataclasses.replace(m, bonds=None, bond_orders=None) if k >= 20 else m for k, m in enumerate(minima)]
    data = make_store(tmp_path / "store", lacking)
    said = []
    recipe = pretrain_recipe(data, objective=FradConfig(), units=UnitsConfig(bonds="file"), training=training())
    pretrain(recipe, tmp_path / "file", say=said.append)
    assert "10 conformations have no label the loss uses; skipped" in said
    said.clear()
    pretrain(pretrain_recipe(data, objective=FradConfig(), training=training()), tmp_path / "auto", say=said.append)
    assert "bonds: 20 of 30 on record; 10 of 30 perceived from SMILES; 0 failed" in "\n".join(said)
    assert not any("no label the loss" in line for line in said)


def test_minima_of_which_none_has_bonds_are_refused_where_they_are_to_be_those_of_the_file(tmp_path):
    data = make_store(tmp_path / "store", frames())
    recipe = pretrain_recipe(data, objective=FradConfig(), units=UnitsConfig(bonds="file"))
    with pytest.raises(ValueError, match=r"needs molecules with bonds and bond orders \(units.bonds=auto perceives"):
        pretrain(recipe, tmp_path / "run")


def test_terms_that_leave_molecules_out_say_so(tmp_path):
    lacking = [bonded_with_orders(m) if k % 2 else m for k, m in enumerate(frames())]
    data = make_store(tmp_path / "store", [dataclasses.replace(m, is_equilibrium=True) for m in lacking])
    said = []
    recipe = pretrain_recipe(data, objective=UnifiedConfig(), units=UnitsConfig(bonds="file"), training=training())
    pretrain(recipe, tmp_path / "run", say=said.append)
    assert "15 of 30 conformations have no bonds with bond orders; terms that need them skip them" in said


def bonded_with_orders(m):
    """Return a molecule with the bonds of its SMILES."""
    graph = perceive(m)
    return dataclasses.replace(m, bonds=graph.bonds, bond_orders=graph.orders)


def test_sources_of_a_mixture_get_bonds_and_say_what_has_none(tmp_path):
    mixed = [
        dataclasses.replace(m, positions=m.positions + 8.0 * last_atom(m)) if k % 4 == 3 else m
        for k, m in enumerate(frames(per_compound=4))
    ]
    first = make_store(tmp_path / "first", frames())
    second = make_store(tmp_path / "second", mixed)
    said = []
    recipe = pretrain_recipe(
        tmp_path,
        model=EGNNConfig(n_features=8, n_layers=1),
        objective=ForcesConfig(),
        training=training(n_steps=2),
    )
    recipe = dataclasses.replace(recipe, data=(SourceConfig(path=first), SourceConfig(path=second)))
    pretrain(recipe, tmp_path / "run", say=said.append)
    text = "\n".join(said)
    assert "bonds: 30 of 30 perceived from SMILES; 0 failed" in text
    assert "6 failed: H without a bond (6)" in text
    assert "second: 6 of 24 conformations have no bonds, which the network reads; skipped" in text
    recipe = dataclasses.replace(recipe, units=UnitsConfig(bonds="file"))
    with pytest.raises(ValueError, match="source first: 30 of 30 conformations have no bonds on record"):
        pretrain(recipe, tmp_path / "file")


def last_atom(m):
    """Return 1 in the first row of the last atom, 0 elsewhere."""
    return np.eye(m.n_atoms)[:, -1:] * np.array([1.0, 0, 0])
