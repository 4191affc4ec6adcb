import csv
import json
import shutil

import numpy as np
import pytest

from basinet.data.generation import merge as merging
from basinet.data.generation.configurations import GenerateConfig
from basinet.data.generation.generate import generate
from basinet.data.generation.merge import merge
from basinet.data.generation.parts import Part
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.workers import one_thread

pytest.importorskip("rdkit")
with one_thread():
    pytest.importorskip("tblite.ase")

SMILES = "C O C N not-a-molecule CO [NH4+] O C#N C=O F CC"
N_PARTS = 3


def config_of(path, **changes):
    return GenerateConfig(
        **dict(smiles_file=path, n_conformers=2, frames_per_conformer=2, molecules_per_chunk=4, processes=1) | changes
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The undivided store, and the same in three parts."""
    path = tmp_path_factory.mktemp("generation")
    (path / "list.smi").write_text(SMILES.replace(" ", "\n"))
    generate(config_of(path / "list.smi"), path / "whole")
    for number in range(1, N_PARTS + 1):
        generate(config_of(path / "list.smi"), path / f"part{number}", part=Part(number, N_PARTS))
    return path


def parts_of(path):
    return [path / f"part{number}" for number in range(1, N_PARTS + 1)]


def listed(store):
    with open(store / "skipped.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def with_manifest(path, target, change):
    """Copy a store and edit its manifest."""
    shutil.copytree(path, target)
    file = target / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    return target


def test_the_parts_together_are_the_undivided_store_molecule_by_molecule(made, tmp_path):
    whole, merged = MoleculeStore.open(made / "whole"), merge(parts_of(made), tmp_path / "merged")
    assert len(merged) == len(whole) > 20
    for one, other in zip(merged, whole, strict=True):
        assert (one.smiles, one.name, one.charge, one.is_equilibrium) == (
            other.smiles, other.name, other.charge, other.is_equilibrium
        )  # fmt: skip
        for a, b in ((one.positions, other.positions), (one.bonds, other.bonds), (one.bond_orders, other.bond_orders)):
            np.testing.assert_array_equal(a, b)
        assert one.labels["energy"] == other.labels["energy"]
        np.testing.assert_array_equal(one.labels["forces"], other.labels["forces"])
    assert merged.manifest.skipped == whole.manifest.skipped
    assert listed(tmp_path / "merged") == listed(made / "whole")
    MoleculeStore.open(tmp_path / "merged", verify=True)


def test_what_was_lost_is_listed_where_it_was(made):
    rows = [(row["place"], row["smiles"], row["lost"], row["n"], row["reason"]) for row in listed(made / "whole")]
    assert rows == [
        ("2", "C", "molecule", "1", "listed before"),
        ("4", "not-a-molecule", "molecule", "1", "does not parse"),
        ("7", "O", "molecule", "1", "listed before"),
    ]


def test_the_fingerprint_does_not_depend_on_the_order_of_the_arguments(made, tmp_path):
    one = merge(parts_of(made), tmp_path / "one")
    other = merge(parts_of(made)[::-1], tmp_path / "other")
    assert one.fingerprint == other.fingerprint
    assert one.manifest.settings == other.manifest.settings
    assert one.manifest.settings["merged_shards"] == N_PARTS
    assert "shard" not in one.manifest.settings


def test_an_interrupted_merge_is_resumed(made, tmp_path):
    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(parts_of(made), tmp_path / "merged", on_progress=interrupt)
    with pytest.raises(ValueError, match="unfinished store"):
        MoleculeStore.open(tmp_path / "merged")
    seen = []
    merged = merge(parts_of(made), tmp_path / "merged", on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)]
    assert merged.fingerprint == merge(parts_of(made), tmp_path / "again").fingerprint
    with pytest.raises(FileExistsError, match="already holds a finished store"):
        merge(parts_of(made), tmp_path / "merged")


def test_missing_parts_are_named(made, tmp_path):
    with pytest.raises(ValueError, match=r"^missing: shard 1/3, 3/3; make them with data generate --shard"):
        merge([made / "part2"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_part_that_is_there_twice_is_refused(made, tmp_path):
    copy = shutil.copytree(made / "part2", tmp_path / "copy")
    for again in (made / "part2", copy):
        with pytest.raises(ValueError, match="shard 2/3 is given twice: .*part2 and .*; leave one of them out"):
            merge([*parts_of(made), again], tmp_path / "merged")


def test_an_unfinished_part_is_refused(made, tmp_path):
    def cut(manifest):
        manifest["complete"] = False

    unfinished = with_manifest(made / "part3", tmp_path / "unfinished", cut)
    with pytest.raises(ValueError, match="unfinished, shard 3/3, is unfinished; run the command"):
        merge([*parts_of(made)[:2], unfinished], tmp_path / "merged")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"level_of_theory": "DFT"}, "level of theory is 'GFN2-xTB' and 'DFT'"),
        ({"settings": {"seed": 1}}, "seed is 0 and 1"),
        ({"settings": {"shard": "3/4"}}, "is shard 1/3 and .* is shard 3/4; expected shards i/n of one n"),
    ],
)
def test_parts_of_different_generations_are_refused(made, tmp_path, change, said):
    def edit(manifest):
        manifest |= {k: manifest[k] | v if isinstance(v, dict) else v for k, v in change.items()}

    other = with_manifest(made / "part3", tmp_path / "other", edit)
    with pytest.raises(ValueError, match=said):
        merge([*parts_of(made)[:2], other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_is_no_part_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="whole is no shard of a generation .* basinet data build IN... OUT"):
        merge([made / "whole"], tmp_path / "merged")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        merge([tmp_path / "nowhere"], tmp_path / "merged")
    with pytest.raises(ValueError, match="part1 is one of the shards; choose another path"):
        merge(parts_of(made), made / "part1")


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_file_is_named_and_no_store_opens(made, tmp_path, damage):
    damaged = shutil.copytree(made / "part2", tmp_path / "damaged")
    [file] = damaged.glob("shard-*/positions.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes(content if damage == "bit" else content[:-1])
    with pytest.raises(ValueError, match=r"damaged/shard-.*/positions.npy .*(does not have the hash|is missing)"):
        merge([made / "part1", damaged, made / "part3"], tmp_path / "merged")
    with pytest.raises(ValueError, match="unfinished store"):
        MoleculeStore.open(tmp_path / "merged")
    merged = merge(parts_of(made), tmp_path / "merged")  # with the part copied again
    assert len(merged) == len(MoleculeStore.open(made / "whole"))


def test_a_merge_begun_from_other_parts_is_not_gone_on_with(made, tmp_path, monkeypatch):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(parts_of(made), tmp_path / "merged", on_progress=interrupt)
    opened = merging._open

    def swapped(path):
        found = opened(path)
        return found._replace(part=Part(4 - found.part.number, N_PARTS))

    monkeypatch.setattr(merging, "_open", swapped)
    with pytest.raises(ValueError, match="merged was begun from other shards; delete it"):
        merge(parts_of(made), tmp_path / "merged")


def test_nothing_is_decoded_or_joined(made, tmp_path, monkeypatch):
    monkeypatch.setattr(StoreWriter, "_merge_shards", None)
    monkeypatch.setattr("basinet.data.store.writer.flatten", None)
    merged = merge(parts_of(made), tmp_path / "merged")
    files = [path.read_bytes() for part in parts_of(made) for path in sorted(part.glob("shard-*/*.npy"))]
    assert files == [path.read_bytes() for path in sorted((tmp_path / "merged").glob("shard-*/*.npy"))]
    assert len(merged.shards) == N_PARTS


@pytest.mark.parametrize("text", ["0/0", "0/3", "3/2", "a/b", "1", "1/", "/2", "-1/2", "1/2/3", "1.0/2", " 1/2", ""])
def test_a_wrong_shard_says_what_is_expected(text):
    with pytest.raises(ValueError, match=r"is not i/n with i from 1 to n, such as 1/8 to 8/8"):
        Part.parse(text)


@pytest.mark.parametrize(("total", "n"), [(0, 3), (2, 5), (10, 3), (64, 64), (1000, 7)])
def test_parts_cover_everything_once_and_evenly(total, n):
    ranges = [Part(i, n).range(total) for i in range(1, n + 1)]
    assert [index for part in ranges for index in part] == list(range(total))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_more_parts_than_molecules_leave_some_empty(tmp_path):
    (tmp_path / "list.smi").write_text("O\nO\n")
    for number in (1, 2):
        generate(config_of(tmp_path / "list.smi"), tmp_path / f"part{number}", part=Part(number, 2))
    sizes = [len(MoleculeStore.open(tmp_path / f"part{number}")) for number in (1, 2)]
    assert sizes == [0, 3]
    merged = merge([tmp_path / "part1", tmp_path / "part2"], tmp_path / "merged")
    assert (len(merged), merged.manifest.skipped) == (3, {"listed before": 1})


def test_a_single_part_merges_to_the_undivided_store(made, tmp_path):
    only = generate(config_of(made / "list.smi"), tmp_path / "only", part=Part(1, 1))
    assert only.manifest.settings["shard"] == "1/1"
    assert merge([tmp_path / "only"], tmp_path / "merged").fingerprint == MoleculeStore.open(made / "whole").fingerprint
