"""A store gives bonds and rotors back, also one written before rotors were kept."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from basinet.data.store.manifest import MANIFEST_FILE
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.structures.batch import Batch, collate
from basinet.structures.molecule import Molecule
from molecules import HELIUM, WATER, from_smiles

MOLECULES = [from_smiles("CCO"), WATER, from_smiles("CC(=O)Oc1ccccc1C(=O)O"), HELIUM, from_smiles("CCCC")]
ROTOR_FILES = ("rotors.npy", "rotor_offsets.npy", "moved.npy", "moved_offsets.npy")


def write(path: Path, shards: list[list[Molecule]]) -> MoleculeStore:
    writer = StoreWriter.open(path, level_of_theory="", source="a test", settings={})
    for shard in shards:
        writer.write_shard(shard)
    return writer.finish()


def assert_topology(found: Batch, wanted: Batch) -> None:
    a, b = found.topology, wanted.topology
    assert a is not None
    assert b is not None
    for first, second in ((a, b), (a.rotors, b.rotors)):
        for field in dataclasses.fields(first):
            x, y = getattr(first, field.name), getattr(second, field.name)
            if isinstance(x, torch.Tensor):
                assert torch.equal(x.nan_to_num(7), y.nan_to_num(7)), field.name


def assert_gathers_what_collate_makes(store: MoleculeStore) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        indices = np.append(rng.integers(0, len(store), size=rng.integers(0, 7)), 0)
        assert_topology(store.gather(indices), collate([MOLECULES[i] for i in indices]))


@pytest.mark.parametrize("cuts", [[5], [2, 3], [0, 1, 4], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("merged", [1, 2**18])
def test_a_gathered_bond_graph_is_that_of_the_molecules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: list[int], merged: int
) -> None:
    monkeypatch.setattr("basinet.data.store.writer.MERGED_MOLECULES", merged)
    ends = np.cumsum([0, *cuts])
    store = write(tmp_path / "store", [MOLECULES[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)])
    assert_gathers_what_collate_makes(store)
    assert_gathers_what_collate_makes(MoleculeStore.from_molecules(MOLECULES))


def test_a_store_without_any_bonds_has_no_bond_graph() -> None:
    store = MoleculeStore.from_molecules([WATER, HELIUM])
    assert store.gather(np.array([1, 0])).topology is None


def test_no_molecules_of_a_store_with_bonds_have_an_empty_bond_graph() -> None:
    batch = MoleculeStore.from_molecules(MOLECULES).gather(np.zeros(0, dtype=np.int64))
    assert batch.topology is not None
    assert batch.topology.bonds.shape == (0, 2)


def test_a_store_written_before_rotors_were_kept_still_has_them(tmp_path: Path) -> None:
    write(tmp_path / "store", [MOLECULES])
    manifest = tmp_path / "store" / MANIFEST_FILE
    record = json.loads(manifest.read_text())
    for shard in record["shards"]:
        for name in ROTOR_FILES:
            del shard["files"][name]
            (tmp_path / "store" / shard["name"] / name).unlink()
    manifest.write_text(json.dumps(record))
    assert_gathers_what_collate_makes(MoleculeStore.open(tmp_path / "store", verify=True))
