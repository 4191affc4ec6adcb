"""Files and stores become one store: all of their molecules, or one clear error and no store."""

import csv

import numpy as np
import pytest

from basinet.commands.build import BuildRecipe, build
from basinet.commands.recipe import UnitsConfig
from basinet.data.doctor.check import check_consistency
from basinet.data.files import build as build_module
from basinet.data.readers import Reading, load_store
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.structures import StructureError
from basinet.units import DEBYE, HARTREE
from reference import reference_file

WATER = """3
Properties=species:S:1:pos:R:3:forces:R:3 energy={energy} mu=1.8 pbc="F F F"
O 0.0 0.0 0.0 0.1 0.2 0.3
H {x} 0.0 0.0 -0.1 -0.2 0.0
H 0.0 0.9 0.0 0.0 0.0 -0.3
"""
COLLAPSED = WATER.format(energy=-1.0, x=0.1)


def frames(n):
    return "".join(WATER.format(energy=-2.0 - i, x=0.9 + 0.001 * i) for i in range(n))


@pytest.fixture
def file(tmp_path):
    (tmp_path / "water.xyz").write_text(frames(10))
    return tmp_path / "water.xyz"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(build_module, "MOLECULES_PER_SHARD", 3)
    monkeypatch.setattr(build_module, "SHOWN_EVERY", 1)


def npz(path, n):
    positions = np.array([[0.0, 0, 0], [0, 0, 0.74]]) + np.zeros((n, 1, 1))
    np.savez(path, z=np.array([1, 1]), R=positions, E=np.arange(n) - 5.0, F=np.zeros((n, 2, 3)))
    return path


def stop_after(n):
    def stop(done, name):
        if done == n:
            raise KeyboardInterrupt

    return stop


def test_a_file_becomes_the_store_that_loading_it_gives(file, tmp_path):
    built = build(BuildRecipe(data=(file,)), tmp_path / "out")
    assert built.store.fingerprint == load_store(file)[0].fingerprint
    assert str(built.reports[0]).startswith(f"{file}: 10 molecules")
    assert MoleculeStore.open(tmp_path / "out", verify=True).manifest.settings["inputs"][0]["name"] == "water.xyz"


def test_files_and_stores_are_joined_in_their_order(file, tmp_path):
    first = build(BuildRecipe(data=(file,)), tmp_path / "first").store
    units = UnitsConfig(energy_unit="Ha")
    built = build(BuildRecipe(data=(npz(tmp_path / "h2.npz", 4), tmp_path / "first"), units=units), tmp_path / "both")
    assert [r.n_molecules for r in built.reports] == [4, 10]
    assert len(built.store) == 14
    assert built.store[0].labels["energy"] == pytest.approx(-5 * HARTREE, rel=1e-15)
    assert built.store[13].labels["energy"] == first[9].labels["energy"]


@pytest.mark.parametrize("stop", [1, 5, 10])
def test_an_interrupted_build_looks_unfinished_and_resumes_to_the_same_store(file, tmp_path, stop):
    recipe = BuildRecipe(data=(file, npz(tmp_path / "h2.npz", 4)), units=UnitsConfig(energy_unit="eV"))
    whole = build(recipe, tmp_path / "whole").store
    with pytest.raises(KeyboardInterrupt):
        build(recipe, tmp_path / "out", stop_after(stop))
    with pytest.raises(ValueError, match="unfinished store"):
        MoleculeStore.open(tmp_path / "out")
    resumed = build(recipe, tmp_path / "out")
    assert resumed.store.fingerprint == whole.fingerprint
    assert [r.n_molecules for r in resumed.reports] == [10, 4]


def test_skipped_molecules_are_counted_once_however_often_a_build_stops(tmp_path):
    file = tmp_path / "some.xyz"
    file.write_text(COLLAPSED + frames(4) + COLLAPSED + frames(3) + COLLAPSED)
    with pytest.raises(StructureError, match="some.xyz:0: atoms 0 and 1 are 0.1 Å apart"):
        build(BuildRecipe(data=(file,)), tmp_path / "strict")
    recipe = BuildRecipe(data=(file,), skip_invalid=True)
    for stop in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            build(recipe, tmp_path / "out", stop_after(stop))
    built = build(recipe, tmp_path / "out")
    reason = "atoms # and # are # Å apart (at least # Å expected); are the coordinates in Å?"
    assert built.store.manifest.skipped == {reason: 3}
    assert len(built.store) == 7
    assert built.reports[0].energy_keys == {"energy": 7}
    with open(tmp_path / "out" / "skipped.csv", encoding="utf-8", newline="") as listed:
        rows = list(csv.reader(listed))
    assert [row[1:3] for row in rows[1:]] == [[f"some.xyz:{i}", "skipped"] for i in (0, 5, 9)]


def test_a_damaged_input_leaves_no_store(file, tmp_path):
    file.write_text(frames(8) + "3\nno more")
    with pytest.raises(StructureError, match="the file ends inside the frame"):
        build(BuildRecipe(data=(file,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_store_is_not_touched(file, tmp_path):
    out = tmp_path / "out"
    before = build(BuildRecipe(data=(file,)), out).store.fingerprint
    with pytest.raises(FileExistsError, match="already holds a finished store"):
        build(BuildRecipe(data=(file,)), out)
    with pytest.raises(FileExistsError, match="is a file"):
        build(BuildRecipe(data=(out,)), file)
    assert MoleculeStore.open(out, verify=True).fingerprint == before


def test_an_input_that_changed_is_not_resumed(file, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(BuildRecipe(data=(file,)), tmp_path / "out", stop_after(5))
    file.write_text(frames(11))
    with pytest.raises(ValueError, match=r"made differently: settings\.inputs was"):
        build(BuildRecipe(data=(file,)), tmp_path / "out")


def test_properties_are_labels_with_their_units(file, tmp_path):
    units = UnitsConfig(property_key="mu", property_unit="D")
    store = build(BuildRecipe(data=(file,), units=units, properties=("dipole=mu:1",)), tmp_path / "out").store
    assert store[0].labels["mu"] == pytest.approx(1.8 * DEBYE, rel=1e-15)
    assert store[0].labels["dipole"] == 1.8
    assert {name: store.manifest.units[name] for name in ("mu", "dipole")} == {"mu": "e*Angstrom", "dipole": "1"}


@pytest.mark.parametrize("text", ["mu", ":D", "=mu:D", "mu:furlong"])
def test_a_property_that_is_no_column_is_refused(file, text):
    with pytest.raises(ValueError, match=r"column:unit|unknown unit"):
        BuildRecipe(data=(file,), properties=(text,))


def test_a_label_asked_for_twice_is_refused(file, tmp_path):
    with pytest.raises(ValueError, match="'mu' is asked for twice"):
        BuildRecipe(data=(file,), properties=("mu:D", "mu:1"))


def test_labels_of_two_levels_of_theory_are_not_mixed(file, tmp_path):
    StoreWriter.open(tmp_path / "xtb", level_of_theory="GFN2-xTB", source="", settings={}).finish()
    with pytest.raises(ValueError, match="one level of theory, got .*not on record"):
        build(BuildRecipe(data=(file, tmp_path / "xtb")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_gradients_of_s66x8_become_forces(tmp_path):
    file = reference_file("s66x8/s66x8_wb97x_631gd.npz")
    store, report = load_store(file, Reading(energy_unit="Ha", energy_key="E_Ha", forces_key="gradient_Ha_per_A"))
    assert check_consistency(store).verdict == "consistent"
    assert "528 from minus gradient_Ha_per_A" in str(report)
    with np.load(file) as arrays:
        assert store[0].labels["forces"][0] == pytest.approx(-arrays["gradient_Ha_per_A"][0] * HARTREE, rel=1e-6)
