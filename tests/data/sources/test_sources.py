"""Public data sets: from files in their native layouts to stores in eV and Å, checked by physics."""

import importlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule as g2

import source_files as native
from basinet.data.doctor.check import check_consistency
from basinet.data.readers import Reading, load_store, locate, open_molecules
from basinet.data.sources.archives import walk
from basinet.data.sources.collection import FetchConfig, Files, PublicDataset
from basinet.data.sources.download import DownloadError
from basinet.data.sources.fetch import Fetched, fetch, saved_splits, store_place
from basinet.data.sources.names import dataset_named, parse_name
from basinet.data.sources.qm9 import FILE_UNITS, REFERENCES, parse_xyz
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.structures import StructureError
from basinet.units import DEBYE, HARTREE, KCAL_PER_MOL
from damage import damage
from reference import reference_file
from source_files import METHANE, METHANE_PROPERTIES, labels, springs, unverified


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own, and no network."""
    monkeypatch.setenv("BASINET_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("BASINET_OFFLINE", "1")
    return tmp_path / "cache"


def place(cache: Path, dataset: PublicDataset, number: int = 0) -> Path:
    """Return where a file of a data set belongs."""
    directory = cache / dataset.collection.name
    directory.mkdir(parents=True, exist_ok=True)
    return directory / dataset.contents.files[number].name


def build(name: str, **config: int) -> Fetched:
    """Build the store of a data set from stand-ins in the cache."""
    out = None if not config else Path(str(store_place(parse_name(name))) + "-other")
    return fetch(unverified(parse_name(name)), out, FetchConfig(**config))


def check_springs(store: MoleculeStore, frames: list[Atoms]) -> None:
    """Assert that a store holds these frames in eV and Å, and that its forces are the slope of its energies."""
    R, E, F = labels(frames)
    batch = store.gather(np.arange(len(frames)))
    assert batch.labels["energy"].numpy() == pytest.approx(E, rel=1e-9)
    assert batch.labels["forces"].numpy().reshape(F.shape) == pytest.approx(F, abs=1e-4)
    positions = np.array([store[i].positions for i in range(len(frames))])
    centred = R - R.mean(axis=1, keepdims=True)
    assert positions - positions.mean(axis=1, keepdims=True) == pytest.approx(centred, abs=1e-5)
    assert check_consistency(store).verdict == "consistent"


@pytest.mark.parametrize("name", ["md17:ethanol", "md22:DHA"])
def test_trajectories_of_gdml_are_converted_once(cache, name):
    frames = springs(60)
    native.write_gdml_npz(place(cache, parse_name(name)), frames)
    built = build(name)
    check_springs(built.store, frames)
    assert built.store.manifest.level_of_theory == {"md17": "PBE+vdW-TS", "md22": "PBE+MBD"}[name[:4]]
    assert any("warning: 60 molecules, but" in note for note in built.notes)
    again = fetch(parse_name(name))
    assert again.reports == () and again.store.fingerprint == built.store.fingerprint


def test_forces_of_the_wrong_sign_are_refused_and_no_store_is_left(cache):
    native.write_gdml_npz(place(cache, parse_name("md17:ethanol")), springs(60), sign=-1)
    with pytest.raises(ValueError, match=r"md17:ethanol: .*sign|md17:ethanol: .*gradient"):
        build("md17:ethanol")
    assert not store_place(parse_name("md17:ethanol")).exists()


def test_rmd17_takes_the_new_labels_and_the_official_splits(cache):
    frames = springs(60)
    lists = {f"{part}_0{i}": range(i + start, i + start + 25) for i in range(1, 6) for part, start in
             (("train", 0), ("test", 25))}  # fmt: skip
    lists["test_05"] = [*range(30, 54), 60]  # beyond the end: azobenzene lacks frames, too
    native.write_rmd17(place(cache, parse_name("rmd17:ethanol")), frames, lists)
    built = build("rmd17:ethanol")
    check_springs(built.store, frames)
    splits = saved_splits(built.path)
    assert list(splits) == ["rmd17-01", "rmd17-02", "rmd17-03", "rmd17-04"]
    first = Split.load(splits["rmd17-01"])
    assert np.concatenate([first.train, first.validation]).tolist() == list(range(1, 26))
    assert first.test.tolist() == list(range(26, 51)) and len(first.validation) == 24


def test_official_training_lists_keep_their_last_fifty_to_validate(cache):
    lists = {f"{part}_0{i}": range(start, start + 100) for i in range(1, 6) for part, start in
             (("train", 0), ("test", 100))}  # fmt: skip
    native.write_rmd17(place(cache, parse_name("rmd17:ethanol")), springs(200), lists)
    split = Split.load(saved_splits(build("rmd17:ethanol").path)["rmd17-03"])
    assert split.train.tolist() == list(range(50)) and split.validation.tolist() == list(range(50, 100))


def test_real_frames_of_rmd17_agree_with_their_forces(cache):
    with np.load(reference_file("rmd17/rmd17_ethanol.npz")) as file:
        arrays = {key: file[key] for key in ("z", "R", "E", "F")}
    place(cache, parse_name("md17:ethanol")).write_bytes(native.npz(**arrays))
    store = build("md17:ethanol").store
    assert check_consistency(store).verdict == "consistent"
    assert store[0].labels["energy"] / HARTREE == pytest.approx(-154.70, abs=0.02)  # as of PBE/def2-SVP


def test_iso17_has_its_folds_in_order_and_splits_by_frame_and_by_isomer(cache):
    folds = {"reference": springs(40), "test_within": springs(6, seed=1), "test_other": springs(5, "CH3OCH3")}
    ids = {"train_ids": range(2, 31), "validation_ids": range(31, 41), "test_ids": [1]}
    native.write_iso17(place(cache, parse_name("iso17")), folds, ids)
    built = build("iso17")
    check_springs(built.store, [*folds["reference"], *folds["test_within"]])
    within, other = (Split.load(saved_splits(built.path)[f"iso17-{what}"]) for what in ("within", "other"))
    assert within.train.tolist() == other.train.tolist() == list(range(1, 30))  # the ids count from 1
    assert within.validation.tolist() == list(range(30, 40))
    assert within.test.tolist() == list(range(40, 46)) and other.test.tolist() == list(range(46, 51))


def write_qm9(cache: Path, numbers: list[int], skipped: list[int]) -> None:
    files = {
        f"dsgdb9nsd_{n:06}.xyz": native.qm9_xyz(n, "CHHHH", METHANE + 0.01 * n, METHANE_PROPERTIES, "C")
        for n in numbers
    }
    native.write_tar(place(cache, parse_name("qm9")), files)
    native.write_uncharacterized(place(cache, parse_name("qm9"), 1), skipped)


def test_qm9_leaves_the_uncharacterised_out_and_keeps_the_order_of_gdb9(cache):
    write_qm9(cache, [2, 1, 3, 5, 4], [3])
    built = build("qm9")
    names = [name for shard in built.store.shards for name in shard.names.to_list()]
    assert names == ["gdb9:1", "gdb9:2", "gdb9:4", "gdb9:5"]
    assert built.store.manifest.skipped == {"uncharacterized: failed the consistency check of the authors": 1}
    assert (built.path / "skipped.csv").read_text().splitlines()[1].startswith(str(place(cache, parse_name("qm9"))))
    assert built.store[0].is_equilibrium and built.store[0].smiles == "C"


def test_methane_of_qm9_has_its_published_properties(cache):
    write_qm9(cache, [1], [])
    store = build("qm9").store
    found = store[0].labels
    assert found["U0"] == pytest.approx(-40.47893 * HARTREE, rel=1e-12)
    assert found["U0_atom"] / KCAL_PER_MOL == pytest.approx(-395.999594594, abs=1e-3)  # gdb9.sdf.csv
    assert found["homo"] == pytest.approx(-0.3877 * HARTREE) and found["A"] == pytest.approx(157.7118)
    assert found["Cv"] == pytest.approx(6.469 * KCAL_PER_MOL / 1000)
    units = store.manifest.units
    assert (units["U0"], units["mu"], units["alpha"], units["Cv"]) == ("eV", "e*Angstrom", "Angstrom^3", "eV/K")


def test_the_atom_references_are_those_of_pytorch_geometric():
    """Its table is in eV, with 27.21138602 eV a hartree."""
    in_ev = {
        "U0": (-13.61312172, -1029.86312267, -1485.30251237, -2042.61123593, -2713.48485589),
        "U": (-13.5745904, -1029.82456413, -1485.26398105, -2042.5727046, -2713.44632457),
        "H": (-13.54887564, -1029.79887659, -1485.2382935, -2042.54701705, -2713.42063702),
        "G": (-13.90303183, -1030.25891228, -1485.71166277, -2043.01812778, -2713.88796536),
    }
    for name, values in in_ev.items():
        ours = [27.21138602 * REFERENCES[name][z] for z in (1, 6, 7, 8, 9)]
        assert ours == pytest.approx(values, abs=2e-6)


def test_numbers_of_qm9_may_have_the_exponents_of_mathematica():
    text = native.qm9_xyz(7, "CH", np.array([[1.2e-6, 0, 0], [0, 0, -3e-5 + 1.1]]), METHANE_PROPERTIES, "[CH]").decode()
    assert "*^-6" in text
    found = parse_xyz(text, "gdb9:7")
    assert found["positions"][0, 0] == pytest.approx(1.2e-6) and found["smiles"] == "[CH]"
    assert found["properties"]["mu"] == 0 and list(found["properties"]) == list(FILE_UNITS)


@pytest.mark.parametrize("cut", [1, 3, 40, 150, 250])
def test_a_truncated_file_of_qm9_is_named(cut):
    text = native.qm9_xyz(1, "CHHHH", METHANE, METHANE_PROPERTIES, "C").decode()
    with pytest.raises(StructureError, match="gdb9:1: not a file of QM9, or truncated"):
        parse_xyz(text[:cut], "gdb9:1")


def test_a_list_of_another_length_is_not_the_uncharacterised_one(cache):
    write_qm9(cache, [1], [])
    place(cache, parse_name("qm9"), 1).write_text("1 C\n2 N\n")
    with pytest.raises(StructureError, match="names 2 molecules, expected 3054"):
        build("qm9")


def test_qm9_properties_agree_with_another_copy(cache):
    with np.load(reference_file("qm9/qm9_first100_all_properties.npz")) as file:
        numbers, ids, n_atoms = file["z"], file["qm9_id"], file["n_atoms"].astype(int)
        positions, properties, names = file["pos"], file["properties"], file["property_names"].tolist()
    symbols, offsets = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}, np.r_[0, np.cumsum(n_atoms)]
    files = {}
    for i, number in enumerate(ids.tolist()):
        rows = slice(offsets[i], offsets[i + 1])
        elements = "".join(symbols[int(z)] for z in numbers[rows])
        files[f"dsgdb9nsd_{number:06}.xyz"] = native.qm9_xyz(number, elements, positions[rows], properties[i], "C")
    native.write_tar(place(cache, parse_name("qm9")), files)
    native.write_uncharacterized(place(cache, parse_name("qm9"), 1))
    store = build("qm9").store
    dipole = properties[:, [n.lower().split("_")[0] for n in names].index("mu")]
    found = store.gather(np.arange(len(store))).labels["mu"].numpy()
    assert len(store) == 100 and found == pytest.approx(dipole * DEBYE, rel=1e-6, abs=1e-9)


def test_the_sdf_of_qm9_brings_bonds(cache):
    native.write_qm9_sdf(place(cache, parse_name("qm9:sdf")), ["C", "CO", "C=O"], [-40.5, -115.7, -114.5])
    native.write_uncharacterized(place(cache, parse_name("qm9:sdf"), 1), [1])
    store = build("qm9:sdf").store
    assert [m.smiles for m in store] == ["CO", "C=O"] and store.bond_counts == {"bonds": 2, "bond_orders": 2}
    assert store[1].bond_orders is not None and sorted(store[1].bond_orders.tolist()) == [1, 1, 2]
    assert store[0].labels["U0"] == pytest.approx(-115.7 * HARTREE)


@pytest.mark.parametrize("name", ["3bpa", "acac"])
def test_the_files_of_a_benchmark_are_its_splits_and_parts_of_their_own(cache, name):
    dataset = parse_name(name)
    frames = {file.name: springs(60, seed=i) for i, file in enumerate(dataset.contents.files)}
    for i, file in enumerate(dataset.contents.files):
        native.write_botnet(place(cache, dataset, i), frames[file.name])
    built = build(name)
    check_springs(built.store, [atoms for part in frames.values() for atoms in part])
    splits = saved_splits(built.path)
    assert sorted(splits) == sorted(dataset.collection.splits)
    split = Split.load(splits[f"{name}-300K"])
    assert split.train.tolist() == list(range(10)) and split.validation.tolist() == list(range(10, 60))
    assert len(split.test) == 60 and split.test.min() >= 120
    alone = build(f"{name}:train_300K")
    assert len(alone.store) == 60 and alone.path != built.path


def test_published_parts_of_acac_share_no_conformation():
    parts = {}
    for name in ("train_300K", "train_600K", "test_MD_300K"):
        with np.load(reference_file(f"acac/acac_{name}.npz")) as file:
            distances = np.linalg.norm(file["R"][:, :, None] - file["R"][:, None], axis=-1)
        parts[name] = {tuple(np.round(d[np.triu_indices(15, 1)], 4)) for d in distances}
    assert not parts["train_300K"] & parts["test_MD_300K"] and not parts["train_600K"] & parts["test_MD_300K"]


def test_ani1x_and_spice_keep_their_layouts_and_levels(cache):
    from data_files import conformations, write_hdf5

    for name, kind in (("ani1x", "ani1x"), ("spice:1.1.4", "spice")):
        write_hdf5(place(cache, parse_name(name)), kind, conformations())
        out = cache / f"{kind}-store"
        store = fetch(unverified(parse_name(name)), out, FetchConfig(limit=3)).store
        expected = [atoms.get_potential_energy() for atoms in conformations()[:3]]
        assert [m.labels["energy"] for m in store] == pytest.approx(expected)
        assert store.manifest.level_of_theory == parse_name(name).contents.level_of_theory


def test_the_real_entries_of_spice_are_consistent(cache):
    content = reference_file("formats/spice_1.1.4_two_entries.hdf5").read_bytes()
    place(cache, parse_name("spice:1.1.4")).write_bytes(content)
    store = build("spice:1.1.4").store
    assert len(store) == 55 and check_consistency(store).verdict != "inconsistent"
    with pytest.raises(ValueError, match="md5 is"):  # without leave, a stand-in is no SPICE
        fetch(parse_name("spice:1.1.4"), cache / "other")


def test_pcqm4mv2_streams_minima_with_hydrogens_and_counts_what_is_broken(cache):
    from data_files import conformations, write_file

    path, _ = write_file(cache.parent, "sdf", conformations(3))
    broken = path.read_bytes().replace(b" C  ", b" Qq ", 1)
    native.write_tar(place(cache, parse_name("pcqm4mv2")), {"pcqm4m-v2-train.sdf": path.read_bytes() + broken})
    built = build("pcqm4mv2")
    assert len(built.store) == 5 and sum(built.store.manifest.skipped.values()) == 1
    molecule = built.store[0]
    assert molecule.n_atoms == 6 and molecule.is_equilibrium and molecule.smiles == "CO" and not molecule.labels


def geom_content(pack) -> bytes:
    def conformer(weight: float, energy: float) -> dict[str, object]:
        atoms = g2("CH3CH2OH")
        atoms.positions[0, 0] += energy / 100
        xyz = np.column_stack([atoms.numbers, atoms.positions]).tolist()
        return {"xyz": xyz, "boltzmannweight": weight, "totalenergy": -11.0 + energy, "geom_id": 1}

    good = {"charge": 0, "uniqueconfs": 3, "conformers": [conformer(w, w) for w in (0.2, 0.5, 0.3)]}
    short = {"charge": 0, "uniqueconfs": 9, "conformers": [conformer(1.0, 0.0)]}
    return pack({"CCO": good, "OCC": good}) + pack({"C(O)C": short})


@pytest.fixture
def msgpack(monkeypatch):
    """MessagePack, or the copy that comes with pip."""
    try:
        return importlib.import_module("msgpack")
    except ImportError:
        vendored = pytest.importorskip("pip._vendor.msgpack")
        monkeypatch.setitem(sys.modules, "msgpack", vendored)
        return vendored


def test_geom_gives_the_likeliest_conformers_without_the_filter_list(cache, msgpack):
    archive = place(cache, parse_name("geom-qm9"))
    native.write_tar(archive, {"qm9_crude.msgpack": geom_content(msgpack.packb)})
    place(cache, parse_name("geom-qm9:3d-emgp"), 1).write_text("OCC\nC\n")
    every = build("geom-qm9").store
    names = [name for shard in every.shards for name in shard.names.to_list()]
    assert names == ["CCO#0", "CCO#1", "CCO#2", "OCC#0", "OCC#1", "OCC#2"]
    energies = [m.labels["energy"] / HARTREE for m in every]
    assert energies[:3] == pytest.approx([-10.5, -10.7, -10.8])  # by falling weight
    assert every.manifest.skipped == {"has fewer conformers than it says": 1}
    assert every[0].is_equilibrium and every[0].smiles == "CCO"
    filtered = build("geom-qm9:3d-emgp", conformers=2).store
    assert [m.name for m in filtered] == ["CCO#0", "CCO#1"] and len(filtered) == 2


def test_geom_without_messagepack_says_what_to_install(cache, monkeypatch):
    native.write_tar(place(cache, parse_name("geom-qm9")), {"qm9_crude.msgpack": b"\x80"})
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ImportError, match=r"pip install \"basinet\[geom\]\""):
        build("geom-qm9")


def lba_parts() -> dict[str, list[object]]:
    pocket = g2("CH3CONH2")
    pocket.positions += 8
    records = [native.lba_record(pocket, g2("CH3OH"), 4.0 + i) for i in range(4)]
    clash = native.lba_record(g2("CH3OH"), g2("CH3OH"), 9.0)
    return {"train": [*records[:2], clash], "val": records[2:3], "test": records[3:]}


def test_lba_is_one_cloud_of_pocket_and_ligand_with_its_affinity(cache):
    native.write_lba(place(cache, parse_name("lba:30")), lba_parts())
    built = build("lba:30")
    assert [m.labels["neglog_aff"] for m in built.store] == [4.0, 5.0, 6.0, 7.0]
    assert built.store[0].n_atoms == 9 + 6 and built.store.manifest.units["neglog_aff"] == "1"
    assert sum(built.store.manifest.skipped.values()) == 1  # atoms on top of each other
    split = Split.load(saved_splits(built.path)["lba-30"])
    assert [p.tolist() for p in (split.train, split.validation, split.test)] == [[0, 1], [2], [3]]


def test_pickled_records_of_lba_are_refused_unread(cache):
    native.write_lba(place(cache, parse_name("lba:30")), lba_parts(), how="pkl")
    with pytest.raises(StructureError, match="records are pkl, and only JSON is read"):
        build("lba:30")


@pytest.mark.parametrize("name", ["rmd17:ethanol", "iso17", "qm9", "pcqm4mv2", "lba:30"])
def test_a_truncated_or_foreign_archive_is_named(cache, name):
    path = place(cache, parse_name(name))
    native.write_tar(path, {"something/else.txt": bytes(np.random.default_rng(0).bytes(100_000))})
    whole = path.read_bytes()
    if name == "qm9":
        native.write_uncharacterized(place(cache, parse_name(name), 1))
    for content in (whole, whole[: len(whole) // 2], b"", b"<html>"):
        path.write_bytes(content)
        (path.parent / "files.lock.json").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
            build(name)
        assert not store_place(parse_name(name)).exists()


def test_damaged_pages_of_a_database_do_not_crash_the_reader(cache):
    path = place(cache, parse_name("lba:30"))
    native.write_lba(path, lba_parts())
    paths, outcomes = (path,), Counter[str]()
    for _ in damaged_copies(path, 20):
        try:
            opened = parse_name("lba:30").contents.read(Files(paths, FetchConfig()))
            outcomes["read"] += all([bool(list(molecules)) for molecules, _report in opened])
        except ValueError:
            outcomes["refused"] += 1
    assert outcomes.total() == 20 and outcomes["refused"] >= 10


def damaged_copies(path: Path, n: int) -> Iterator[None]:
    """Put damaged copies in the place of an archive: of the archive itself, and of files in it."""
    generator = np.random.default_rng(0)
    whole = path.read_bytes()
    inner = {name: stream.read() for name, stream in walk(path)}
    for i in range(n):
        if i % 2:
            path.write_bytes(damage(whole, generator))
        else:
            name = sorted(inner)[int(generator.integers(len(inner)))]
            files = {**inner, name: damage(inner[name], generator)}
            native.write_zip(path, files) if path.suffix == ".zip" else native.write_tar(path, files)
        shutil.rmtree(path.parent / "extracted", ignore_errors=True)
        yield


@pytest.mark.parametrize("name", ["qm9", "qm9:sdf", "geom-qm9"])
def test_damaged_archives_give_a_clear_error_or_molecules(cache, name, msgpack):
    dataset = parse_name(name)
    path = place(cache, dataset)
    if name == "qm9":
        write_qm9(cache, [1, 2, 3], [])
    elif name == "qm9:sdf":
        native.write_qm9_sdf(path, ["C", "CO"], [-40.5, -115.7])
        native.write_uncharacterized(place(cache, dataset, 1))
    else:
        native.write_tar(path, {"qm9_crude.msgpack": geom_content(msgpack.packb)})
    paths = tuple(path.parent / file.name for file in dataset.contents.files)
    outcomes: Counter[str] = Counter()
    for _ in damaged_copies(path, 100):
        try:
            for molecules, _report in dataset.contents.read(Files(paths, FetchConfig())):
                outcomes["read"] += bool(list(molecules))
        except ValueError:
            outcomes["refused"] += 1
    assert outcomes.total() == 100 and outcomes["refused"] > 50


def test_a_source_can_stand_where_a_path_does(cache):
    frames = springs(60)
    native.write_gdml_npz(place(cache, parse_name("md17:ethanol")), frames)
    store, report = load_store("md17:ethanol")
    assert len(store) == report.n_molecules == 60 and locate("md17:ethanol").is_dir()
    molecules, _ = open_molecules(Path("md17:ethanol"))
    assert torch.tensor([m.n_atoms for m in molecules]).tolist() == [9] * 60
    with pytest.raises(ValueError, match="a store has its own units"):
        open_molecules("md17:ethanol", Reading(energy_unit="kcal/mol"))


def test_several_that_ask_at_once_build_one_store(cache):
    native.write_gdml_npz(place(cache, parse_name("md17:ethanol")), springs(60))
    dataset = unverified(parse_name("md17:ethanol"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(dataset), range(4)))
    assert sum(bool(one.reports) for one in found) == 1 and len({one.store.fingerprint for one in found}) == 1


def test_names_are_told_from_paths(tmp_path, monkeypatch):
    assert parse_name("qm9") == parse_name("qm9:") == dataset_named("qm9:")
    assert parse_name("rmd17:aspirin").name == "rmd17:aspirin"
    for path in ("qm9", "qm9.xyz", "./qm9:/x", "C:\\data", "/data/qm9:", "data/rmd17:aspirin", "file.xyz"):
        assert dataset_named(path) is None
    with pytest.raises(ValueError, match=r"no data set 'aspirn'; expected one of rmd17:aspirin"):
        dataset_named("rmd17:aspirn")
    with pytest.raises(ValueError, match=r"foo:bar: no such file, and no public data set is called foo; known are qm9"):
        open_molecules("foo:bar")
    with pytest.raises(ValueError, match="has no data set ''; expected one of md17:aspirin"):
        parse_name("md17")
    monkeypatch.chdir(tmp_path)
    Path("foo:bar").write_text("")
    assert dataset_named("foo:bar") is None


def test_what_is_missing_is_named_with_every_file(cache):
    with pytest.raises(DownloadError) as error:
        load_store("qm9:")
    for name in ("dsgdb9nsd.xyz.tar.bz2", "uncharacterized.txt"):
        assert str(cache / "qm9" / name) in str(error.value)


def test_other_settings_need_a_place_of_their_own(cache):
    with pytest.raises(ValueError, match="give the path to write it to"):
        fetch(parse_name("md17:ethanol"), None, FetchConfig(limit=5))
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        FetchConfig(limit=0)
