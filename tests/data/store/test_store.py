"""A store gives back what was written, survives being killed, and says so when it is damaged."""

import json
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule as ase_molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from basinet.data.store.manifest import MANIFEST_FILE
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.structures import Molecule, StructureError
from basinet.structures.batch import collate

ORIGIN = {"level_of_theory": "GFN2-xTB", "source": "a test", "settings": {"frames": 7, "range": (1.0, 2.0)}}


def named(formula: str, **fields: object) -> Molecule:
    atoms = ase_molecule(formula)
    return Molecule(atomic_numbers=atoms.numbers.astype(np.int64), positions=atoms.positions + 3.0, **fields)


def some_molecules() -> list[Molecule]:
    """Labels present, absent and partly present; bonds present, empty and unknown; one atom; a charge."""
    rng = np.random.default_rng(0)
    return [
        named("CH4", labels={"energy": -1.0 / 3.0, "forces": rng.normal(size=(5, 3))}, smiles="C", name="methane ✓"),
        named("H2O", labels={"energy": -2.0}, is_equilibrium=True, charge=-1, smiles="O"),
        Molecule(atomic_numbers=np.array([2]), positions=np.zeros((1, 3)), labels={"partial_charges": np.zeros(1)}),
        named(
            "CO",
            bonds=np.array([[0, 1]]),
            bond_orders=np.array([3.0]),
            labels={"forces": rng.normal(size=(2, 3)), "homo": 0.1, "partial_charges": np.array([0.1, -0.1])},
        ),
        named("H2", bonds=np.zeros((0, 2), dtype=np.int64), bond_orders=np.zeros(0)),
        named("H2", bonds=np.array([[0, 1]])),
    ]


def assert_same(found: Molecule, wanted: Molecule) -> None:
    """Equal bit for bit, after the centring and the casts the store documents."""
    centred = (wanted.positions - wanted.positions.mean(0)).astype(np.float32)
    assert np.array_equal(found.positions, centred.astype(np.float64))
    assert np.array_equal(found.atomic_numbers, wanted.atomic_numbers)
    assert set(found.labels) == set(wanted.labels)
    for key, value in wanted.labels.items():
        expected = np.asarray(value, dtype=np.float32).astype(np.float64) if np.ndim(value) else value
        assert np.array_equal(found.labels[key], expected), key
    for field in ("bonds", "bond_orders"):
        a, b = getattr(found, field), getattr(wanted, field)
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)
    for field in ("charge", "is_equilibrium", "smiles", "name"):
        assert getattr(found, field) == getattr(wanted, field)


def write(path: Path, shards: list[list[Molecule]]) -> MoleculeStore:
    writer = StoreWriter.open(path, **ORIGIN)
    for shard in shards:
        writer.write_shard(shard)
    return writer.finish()


def without_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basinet.data.store.writer.MERGED_MOLECULES", 1)


@pytest.mark.parametrize("cuts", [[6], [2, 4], [0, 1, 0, 5, 0], [1, 1, 1, 1, 1, 1]])
@pytest.mark.parametrize("merged", [True, False])
def test_a_store_gives_back_every_molecule_however_it_was_cut(tmp_path, monkeypatch, cuts, merged):
    if not merged:
        without_merging(monkeypatch)
    molecules = some_molecules()
    ends = np.cumsum([0, *cuts])
    store = write(tmp_path / "store", [molecules[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)])
    assert len(store) == len(molecules) == len(list(store))
    for i, wanted in enumerate(molecules):
        assert_same(store[i], wanted)
    assert store.smiles == [m.smiles for m in molecules]
    assert store.elements == {1, 2, 6, 8}
    assert store.label_counts == {"energy": 2, "forces": 2, "homo": 1, "partial_charges": 2}
    assert store.atoms_per_molecule.tolist() == [m.n_atoms for m in molecules]
    with pytest.raises(IndexError):
        store[6]


@pytest.mark.parametrize("cuts", [[6], [2, 4], [0, 1, 0, 5, 0], [1, 1, 1, 1, 1, 1]])
def test_a_gathered_batch_is_the_molecules_one_by_one(tmp_path, monkeypatch, cuts):
    without_merging(monkeypatch)
    molecules = some_molecules()
    ends = np.cumsum([0, *cuts])
    store = write(tmp_path / "store", [molecules[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)])
    rng = np.random.default_rng(1)
    for _ in range(20):
        indices = rng.integers(0, len(store), size=rng.integers(1, 9))
        batch = store.gather(indices)
        slow = collate([store[int(i)] for i in indices])
        assert batch.ids is not None
        assert batch.ids.tolist() == indices.tolist()
        assert batch.n_molecules == slow.n_molecules
        assert torch.equal(batch.atomic_numbers, slow.atomic_numbers)
        assert torch.equal(batch.molecule, slow.molecule)
        torch.testing.assert_close(batch.positions, slow.positions, rtol=0, atol=1e-6)
        assert batch.labels["energy"].dtype == torch.float64
        assert batch.labels["forces"].dtype == torch.float32
        for key, value in slow.labels.items():
            assert torch.equal(batch.labels[key].nan_to_num(7.0), value.to(batch.labels[key].dtype).nan_to_num(7.0))
        for key, value in slow.flags.items():
            assert torch.equal(batch.flags[key], value)


def test_gathering_nothing_gives_an_empty_batch_with_every_label():
    batch = MoleculeStore.from_molecules(some_molecules()).gather(np.zeros(0, dtype=np.int64))
    assert batch.n_molecules == batch.n_atoms == 0
    assert batch.labels["forces"].shape == (0, 3)
    assert batch.labels["energy"].shape == batch.flags["has_energy"].shape == (0,)
    assert batch.atoms_per_molecule.shape == (0,)


@pytest.mark.parametrize("indices", [[-1], [0, 6], [99]])
def test_an_index_outside_the_store_is_refused_and_not_wrapped_around(indices):
    store = MoleculeStore.from_molecules(some_molecules())
    with pytest.raises(IndexError, match="6 molecules"):
        store.gather(np.array(indices))


def test_writing_into_a_gathered_batch_leaves_the_store_alone(tmp_path):
    store = write(tmp_path / "store", [some_molecules()])
    store.gather(np.array([0, 1])).positions.fill_(9.0)
    assert_same(store[0], some_molecules()[0])
    assert_same(MoleculeStore.open(tmp_path / "store", verify=True)[0], some_molecules()[0])


def test_the_fingerprint_is_of_the_molecules_and_not_of_how_they_were_written(tmp_path):
    molecules = some_molecules()
    in_memory = MoleculeStore.from_molecules(molecules)
    assert write(tmp_path / "one", [molecules]).fingerprint == in_memory.fingerprint
    assert write(tmp_path / "two", [molecules[:2], [], molecules[2:]]).fingerprint == in_memory.fingerprint
    assert MoleculeStore.from_molecules(molecules[::-1]).fingerprint != in_memory.fingerprint


def test_the_manifest_says_what_the_store_is(tmp_path):
    writer = StoreWriter.open(tmp_path / "store", **ORIGIN)
    writer.write_shard([], {"no conformer": 3})
    writer.write_shard(some_molecules(), {"no conformer": 1, "charged": 2})
    manifest = writer.finish().manifest
    assert manifest.complete
    assert manifest.skipped == {"charged": 2, "no conformer": 4}
    assert manifest.settings == {"frames": 7, "range": [1.0, 2.0]}
    assert (manifest.n_molecules, manifest.n_atoms) == (6, 15)
    assert manifest.elements == {"C": 2, "H": 10, "He": 1, "O": 2}
    assert manifest.units["energy"] == "eV"
    totals = json.loads((tmp_path / "store" / MANIFEST_FILE).read_text())["totals"]
    assert totals["labels"]["energy"] == 2


def test_a_store_of_no_molecules_can_be_written_and_opened(tmp_path):
    writer = StoreWriter.open(tmp_path / "store", **ORIGIN)
    writer.write_shard([], {"unreadable": 5})
    store = writer.finish()
    assert len(store) == 0
    assert store.gather(np.zeros(0, dtype=np.int64)).n_molecules == 0


def test_a_label_cannot_be_per_molecule_here_and_per_atom_there(tmp_path):
    number = named("H2", labels={"dipole": 1.0})
    rows = named("H2", labels={"dipole": np.ones((2, 3))})
    with pytest.raises(StructureError, match="different names"):
        MoleculeStore.from_molecules([number, rows])
    writer = StoreWriter.open(tmp_path / "store", **ORIGIN)
    writer.write_shard([number])
    with pytest.raises(ValueError, match="different names"):
        writer.write_shard([rows])
    assert writer.n_shards == 1


KILLED_WRITER = """
    import os, signal, sys
    import numpy as np
    from basinet.data.store import writer as store_writer
    from basinet.structures import Molecule

    path, when = sys.argv[1], sys.argv[2]
    molecules = [Molecule(atomic_numbers=np.array([1, 1]), positions=np.array([[0, 0, 0], [0, 0, 0.7 + i / 100]]))
                 for i in range(3)]
    writer = store_writer.StoreWriter.open(path, level_of_theory="x", source="y", settings={})
    writer.write_shard(molecules)
    kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    if when == "between the files of a shard":
        saved, save = [], np.save
        np.save = lambda *a, **k: (save(*a, **k), saved.append(1), kill() if len(saved) == 5 else None)
    elif when == "between the shard and the manifest":
        store_writer.write_text = kill
    elif when == "before the manifest is replaced":
        replace = os.replace
        os.replace = lambda a, b: kill() if str(b).endswith("manifest.json") else replace(a, b)
    if when == "while joining shards":
        writer.write_shard(molecules)
        store_writer.write_text = kill
        writer.finish()
    writer.write_shard(molecules)
"""


@pytest.mark.parametrize(
    ("when", "n_shards"),
    [
        ("between the files of a shard", 1),
        ("between the shard and the manifest", 1),
        ("before the manifest is replaced", 1),
        ("while joining shards", 2),
    ],
)
def test_a_writer_killed_at_any_moment_leaves_a_store_that_resumes_and_cannot_be_half_read(tmp_path, when, n_shards):
    path = tmp_path / "store"
    command = [sys.executable, "-c", textwrap.dedent(KILLED_WRITER), str(path), when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with pytest.raises(ValueError, match="unfinished"):
        MoleculeStore.open(path)
    writer = StoreWriter.open(path, level_of_theory="x", source="y", settings={})
    assert writer.n_shards == n_shards
    assert len(list(path.iterdir())) == n_shards + 1  # the shards and the manifest; no leftovers
    writer.write_shard([named("H2O")])
    store = writer.finish()
    assert len(store) == 3 * n_shards + 1
    assert store[3 * n_shards].formula == "H2O"
    MoleculeStore.open(path, verify=True)


def test_a_full_disk_raises_and_leaves_a_store_that_resumes(tmp_path):
    writer = StoreWriter.open(tmp_path / "store", **ORIGIN)
    writer.write_shard(some_molecules())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="could not write shard 1.*1 shards before are safe"):
            writer.write_shard(some_molecules() * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == [MANIFEST_FILE, "shard-00000"]
    writer.write_shard(some_molecules())
    assert len(writer.finish()) == 12


def test_resuming_with_other_settings_names_the_difference(tmp_path):
    StoreWriter.open(tmp_path / "store", **ORIGIN).write_shard(some_molecules())
    with pytest.raises(ValueError, match=r"settings.frames was 7, now 8"):
        StoreWriter.open(tmp_path / "store", **{**ORIGIN, "settings": {"frames": 8, "range": [1.0, 2.0]}})
    with pytest.raises(ValueError, match="level_of_theory was 'GFN2-xTB', now 'DFT'"):
        StoreWriter.open(tmp_path / "store", **{**ORIGIN, "level_of_theory": "DFT"})
    assert StoreWriter.open(tmp_path / "store", **ORIGIN).n_shards == 1


def test_a_finished_store_is_not_written_again(tmp_path):
    write(tmp_path / "store", [some_molecules()])
    with pytest.raises(FileExistsError, match="finished store of 6 molecules"):
        StoreWriter.open(tmp_path / "store", **ORIGIN)


def test_two_writers_of_one_store_notice_each_other(tmp_path):
    first = StoreWriter.open(tmp_path / "store", **ORIGIN)
    second = StoreWriter.open(tmp_path / "store", **ORIGIN)
    second.write_shard(some_molecules())
    with pytest.raises(ValueError, match="another process"):
        first.write_shard(some_molecules())
    assert second.n_shards == StoreWriter.open(tmp_path / "store", **ORIGIN).n_shards == 1


def test_a_directory_of_other_things_is_neither_read_nor_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(ValueError, match="not a basinet store"):
        MoleculeStore.open(tmp_path)
    with pytest.raises(FileExistsError, match="not a basinet store"):
        StoreWriter.open(tmp_path, **ORIGIN)
    with pytest.raises(FileNotFoundError):
        MoleculeStore.open(tmp_path / "nowhere")


def test_damage_is_found_and_named(tmp_path):
    write(tmp_path / "store", [some_molecules()])
    positions = tmp_path / "store" / "shard-00000" / "positions.npy"
    whole = positions.read_bytes()
    positions.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"positions.npy has \d+ bytes, expected \d+"):
        MoleculeStore.open(tmp_path / "store")
    positions.write_bytes(whole[:-4] + b"\0\0\0\1")
    MoleculeStore.open(tmp_path / "store")
    with pytest.raises(ValueError, match=r"positions.npy does not have the hash"):
        MoleculeStore.open(tmp_path / "store", verify=True)
    positions.unlink()
    with pytest.raises(ValueError, match=r"positions.npy is missing"):
        MoleculeStore.open(tmp_path / "store")


def test_a_newer_format_or_an_edited_manifest_is_refused(tmp_path):
    write(tmp_path / "store", [some_molecules()])
    file = tmp_path / "store" / MANIFEST_FILE
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "format_version": 99}))
    with pytest.raises(ValueError, match="format version 99.*update basinet"):
        MoleculeStore.open(tmp_path / "store")
    file.write_text(json.dumps({**record, "totals": {**record["totals"], "n_molecules": 5}}))
    with pytest.raises(ValueError, match="totals"):
        MoleculeStore.open(tmp_path / "store")
    file.write_text("{}")
    with pytest.raises(ValueError, match="not the manifest"):
        MoleculeStore.open(tmp_path / "store")


def test_many_shards_need_few_open_files(tmp_path, monkeypatch):
    without_merging(monkeypatch)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(128, soft), hard))
    try:
        store = write(tmp_path / "store", [[named("H2O")]] * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(store.manifest.shards) == 20
    assert len(store) == 20


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=4))
def test_any_mixture_of_labels_survives_the_round_trip(tmp_path_factory, shards):
    kinds = some_molecules()
    store = write(tmp_path_factory.mktemp("any") / "store", [[kinds[i] for i in shard] for shard in shards])
    for found, wanted in zip(store, [kinds[i] for shard in shards for i in shard], strict=True):
        assert_same(found, wanted)


def test_shards_of_many_atoms_are_not_joined(tmp_path, monkeypatch):
    molecules = some_molecules()
    atoms = sum(m.n_atoms for m in molecules[:2])
    monkeypatch.setattr("basinet.data.store.writer.MERGED_ATOMS", atoms)
    store = write(tmp_path / "store", [[m] for m in molecules])
    assert len(store.shards) > 1
    assert store.shards[0].n_molecules == 2
    assert all(s.n_molecules == 1 or len(s.atomic_numbers) <= atoms for s in store.shards)
    assert [m.name for m in store] == [m.name for m in molecules]
