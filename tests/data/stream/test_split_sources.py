"""Stores are split each for itself, and what they share falls on one side."""

import numpy as np
import pytest

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import compound_codes, split_sources
from basinet.structures import Molecule

ALKANES = ["C" * n for n in range(1, 41)]


def store(smiles: list[str], seed: int = 0) -> MoleculeStore:
    rng = np.random.default_rng(seed)
    return MoleculeStore.from_molecules(
        [Molecule(atomic_numbers=np.full(3, 6), positions=10 * rng.normal(size=(3, 3)), smiles=s) for s in smiles]
    )


def sides(stores: dict[str, MoleculeStore], seed: int = 0, fraction: float = 0.1):
    found = split_sources(stores, fraction, seed)
    for name, split in found.splits.items():
        n = len(split.train) + len(split.validation) + found.left_out.get(name, 0)
        assert n == len(stores[name])
        assert len(split.train) and len(split.validation) and not len(split.test)
    parts = {
        part: {name: [stores[name].smiles[i] for i in getattr(s, part)] for name, s in found.splits.items()}
        for part in ("train", "validation")
    }
    return found, parts


@pytest.mark.parametrize("seed", range(5))
def test_no_compound_trains_in_one_store_and_validates_in_another(seed):
    stores = {"all": store(ALKANES * 3, 1), "few": store(ALKANES[5:9] * 2, 2), "half": store(ALKANES[::2], 3)}
    found, parts = sides(stores, seed)
    train, validation = (set().union(*parts[p].values()) for p in ("train", "validation"))
    assert not train & validation
    assert found.by_conformation == () and found.left_out == {}


@pytest.mark.parametrize("seed", range(5))
def test_every_store_holds_out_its_fraction(seed):
    found, parts = sides({"a": store(ALKANES * 5, 1), "b": store([f"{s}O" for s in ALKANES], 2)}, seed)
    assert len(found.splits["a"].validation) == 20
    assert len(found.splits["b"].validation) == 4
    assert len(set(parts["validation"]["a"])) == 4


def test_molecules_without_smiles_are_split_one_by_one():
    found, _ = sides({"a": store([""] * 50, 1), "b": store(ALKANES, 2)})
    assert len(found.splits["a"].validation) == 5
    assert found.by_conformation == ()


def test_a_store_of_one_compound_is_split_by_conformation_and_its_compound_left_out_elsewhere():
    found, parts = sides({"frames": store(["CCO"] * 30, 1), "many": store([*ALKANES, "CCO", "CCO"], 2)})
    assert found.by_conformation == ("frames",)
    assert found.left_out == {"many": 2}
    assert len(found.splits["frames"].validation) == 3
    assert "CCO" not in parts["train"]["many"] + parts["validation"]["many"]


def test_what_is_left_of_a_store_may_be_one_compound():
    found, _ = sides({"frames": store(["CCO"] * 30, 1), "two": store(["CCO"] * 5 + ["CCC"] * 10, 2)})
    assert set(found.by_conformation) == {"frames", "two"}
    assert found.left_out == {"two": 5}


def test_a_store_with_nothing_of_its_own_to_validate_on_is_refused():
    stores = {"pair": store(["C", "CC"], 1), "other": store(["C", "CCC"], 2), "rest": store(["CC", "CCC"], 3)}
    with pytest.raises(ValueError, match=r"(pair|other|rest): all its compounds are in other sources too"):
        for seed in range(20):
            sides(stores, seed)


def test_one_molecule_is_too_few():
    with pytest.raises(ValueError, match="b has 1 molecules; too few to keep some for validation"):
        split_sources({"a": store(ALKANES), "b": store(["C"])}, 0.1, 0)


def test_the_same_seed_gives_the_same_split():
    stores = {"a": store(ALKANES * 3, 1), "b": store(ALKANES[5:9] * 2, 2)}
    assert split_sources(stores, 0.1, 3).splits == split_sources(stores, 0.1, 3).splits
    assert split_sources(stores, 0.1, 3).splits != split_sources(stores, 0.1, 4).splits


def test_compounds_have_one_number_in_all_lists_and_the_unknown_each_their_own():
    first, second = compound_codes([["C", "", "CC", "C"], ["CC", "", "O"]])
    assert first[0] == first[3] and first[2] == second[0]
    assert len({*first.tolist(), *second.tolist()}) == 5


def test_a_compound_written_in_two_ways_falls_on_one_side():
    stores = {
        "one": store(ALKANES, 1),
        "other": store([f"[CH3]{s[1:]}" if len(s) > 1 else "[CH4]" for s in ALKANES], 2),
    }
    for seed in range(3):
        found = split_sources(stores, 0.2, seed).splits
        assert sorted(found["one"].validation) == sorted(found["other"].validation)
