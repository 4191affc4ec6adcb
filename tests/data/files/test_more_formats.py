"""LMDB, parquet, nested HDF5 and arrays in other layouts: what is read, what is asked for, what is refused."""

import gzip
import io
import pickle
import zipfile
import zlib

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from basinet.data.files.options import PropertyColumn
from basinet.data.readers import Reading, load_store, open_molecules, read_molecules
from basinet.structures import StructureError
from basinet.units import BOHR, HARTREE, KCAL_PER_MOL
from data_files import TABLE, arrays, conformations, write_file, write_lmdb
from reference import reference_file

WATER = {"numbers": [8, 1, 1], "positions": [[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]]}


def read(path, **options):
    molecules, report = open_molecules(path, Reading(**options))
    return list(molecules), report


# --- What a file is


@pytest.mark.parametrize("kind", ["npz", "traj", "db", "ani1x", "lmdb", "parquet", "mat", "extxyz", "sdf", "csv"])
def test_a_file_is_what_its_content_says(kind, tmp_path):
    path, options = write_file(tmp_path, kind, conformations(3))
    expected = [m.atomic_numbers.tolist() for m in read_molecules(path, Reading(**options))]
    misleading = "frames" if kind in ("extxyz", "sdf", "csv") else "frames.xyz"
    other = path.rename(tmp_path / misleading)
    assert [m.atomic_numbers.tolist() for m in read_molecules(other, Reading(**options))] == expected


# --- LMDB


def test_rows_come_in_the_order_of_their_numbers(tmp_path):
    rows = [WATER | {"key_value_pairs": {"e": float(i)}} for i in range(1, 24)]
    write_lmdb(tmp_path / "w.aselmdb", rows, metadata={"about": "water"})
    molecules, _ = read(tmp_path / "w.aselmdb", energy_key="e")
    assert [m.labels["energy"] for m in molecules] == list(range(1, 24))
    assert molecules[10].name == "w.aselmdb:11"


def test_deleted_rows_are_left_out_and_missing_ones_are_an_error(tmp_path):
    write_lmdb(tmp_path / "d.lmdb", [WATER, None, WATER, WATER], deleted_ids=[2])
    assert [m.name for m in read_molecules(tmp_path / "d.lmdb")] == ["d.lmdb:1", "d.lmdb:3", "d.lmdb:4"]
    write_lmdb(tmp_path / "m.lmdb", [WATER, None, WATER])
    with pytest.raises(StructureError, match="has 2 rows, but says that the next is 4"):
        list(read_molecules(tmp_path / "m.lmdb"))


def test_charges_smiles_and_symbols_of_records_are_read(tmp_path):
    ion = {"atoms": ["O", "H"], "coordinates": [[0, 0, 0], [0, 0, 0.97]], "smi": "[OH-]", "charge": -1}
    write_lmdb(tmp_path / "i.lmdb", [ion], nextid=None)
    (molecule,) = read_molecules(tmp_path / "i.lmdb")
    assert (molecule.formula, molecule.charge, molecule.smiles) == ("HO", -1, "[OH-]")


class Trap:
    """Code that a pickle would run."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was loaded",))


@pytest.mark.parametrize("pack", [pickle.dumps, lambda record: zlib.compress(pickle.dumps(record))])
def test_pickled_records_are_refused_and_not_loaded(tmp_path, pack):
    write_lmdb(tmp_path / "p.lmdb", [pack(Trap())], nextid=None)
    with pytest.raises(StructureError, match="p.lmdb: its records are pickled.*ASE-LMDB"):
        list(read_molecules(tmp_path / "p.lmdb"))


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"x\x9c" + bytes(20), "is not JSON"),
        (gzip.compress(b"{}", mtime=0), "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "has no numbers and positions; it has nothing"),
        (b"17", "the record is int"),
        ({"numbers": [8], "positions": [[0, 0]]}, "is not a molecule"),
        ({"numbers": [8, 1], "positions": [[0, 0, 0]]}, "is not a molecule"),
        ({"atoms": ["Qq"], "positions": [[0, 0, 0]]}, "is not a molecule"),
        ({"numbers": [400], "positions": [[0, 0, 0]]}, "atomic numbers must be"),
        ({"numbers": [8], "positions": [[0, 0, None]]}, "not finite"),
        (WATER | {"forces": [[0, 0, None]] * 3}, "'forces' is not finite"),
        (WATER | {"pbc": [True, True, True]}, "periodic"),
        ({"numbers": {"__ndarray__": [[10**15], "int64", [1]]}, "positions": []}, "is not a molecule"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, record, fault):
    write_lmdb(tmp_path / "r.lmdb", [WATER, record])
    with pytest.raises(StructureError, match=f"r.lmdb:2: .*{fault}"):
        list(read_molecules(tmp_path / "r.lmdb"))


def test_a_record_that_grows_beyond_all_bounds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("basinet.data.files.lmdb.MAX_RECORD", 10_000)
    write_lmdb(tmp_path / "b.lmdb", [zlib.compress(b" " * 20_000)])
    with pytest.raises(StructureError, match="more than 10000 bytes"):
        list(read_molecules(tmp_path / "b.lmdb"))


def test_pages_that_are_not_there_do_not_crash_this_process(tmp_path):
    path, _ = write_file(tmp_path, "lmdb", conformations(50))
    path.write_bytes(path.read_bytes()[: 3 * 4096])
    with pytest.raises(StructureError, match=r"frames.lmdb: cannot be read as LMDB"):
        list(read_molecules(path))


def test_a_directory_of_lmdb_is_told_to_name_its_file(tmp_path):
    (tmp_path / "x.lmdb").mkdir()
    write_lmdb(tmp_path / "x.lmdb" / "data.mdb", [WATER])
    with pytest.raises(ValueError, match="is a directory of LMDB .* give the file: .*data.mdb"):
        list(read_molecules(tmp_path / "x.lmdb"))
    assert len(list(read_molecules(tmp_path / "x.lmdb" / "data.mdb"))) == 1


# --- Parquet


def test_a_table_gives_what_the_same_csv_gives(tmp_path):
    of_csv, options = write_file(tmp_path, "csv", [])
    table = {"note": [1] * 4, "SMILES": [row[0] for row in TABLE], "energy": [-1.5, None, -3.5, float("nan")]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=3)
    first, second = (list(read_molecules(p, Reading(**options))) for p in (of_csv, tmp_path / "t.parquet"))
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, second, strict=True))
    assert [m.labels.get("energy") for m in second] == [-1.5, None, -3.5, None]
    assert second[3].name == "t.parquet:3"


def test_cells_without_smiles_are_skipped_and_columns_are_asked_for_by_name(tmp_path):
    pq.write_table(pa.table({"smiles": ["C", None, "C1"], "mu": [1.0, 2.0, 3.0]}), tmp_path / "t.parquet")
    molecules, report = read(tmp_path / "t.parquet", columns=(PropertyColumn(name="mu", key="mu", unit="D"),))
    assert len(molecules) == 1
    assert [r.reason for r in report.skipped_records] == ["SMILES: empty", "SMILES: does not parse"]
    with pytest.raises(StructureError, match="expected one column named 'u0', got 0; the columns are: smiles, mu"):
        list(read_molecules(tmp_path / "t.parquet", Reading(energy_key="u0", energy_unit="eV")))


def test_a_row_whose_lists_do_not_fit_is_named(tmp_path):
    rows = {"numbers": [[8], [8, 1]], "positions": [[0.0, 0, 0], [0.0, 0, 0]]}
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    with pytest.raises(StructureError, match="p.parquet:1: the row is not a molecule"):
        list(read_molecules(tmp_path / "p.parquet"))


# --- HDF5


def test_forces_beside_symbols_must_be_called_forces_or_gradients(tmp_path):
    frames = conformations()
    path, options = write_file(tmp_path, "ani1", frames)
    with pytest.raises(StructureError, match="forces_key=-forces for gradients, forces_key=forces for forces"):
        read_molecules(path)
    (first, *_), report = read(path, **options)
    assert first.labels["forces"] == pytest.approx(frames[0].get_forces())
    assert first.name == "frames.h5:gdb11_s02/gdb11_s02-0/0"
    assert first.smiles == "[H]OC"
    assert "6 from minus forces" in str(report)
    (turned, *_), _ = read(path, forces_key="forces")
    assert turned.labels["forces"] == pytest.approx(-frames[0].get_forces())


def test_dimers_of_comp6_have_gradients(tmp_path):
    """The reference says that dE = +g.dx; written in COMP6's own layout, the sign is what the key says."""
    with np.load(reference_file("s66x8/s66x8_wb97x_631gd.npz")) as found:
        first = np.concatenate([[0], np.cumsum(found["n_atoms"].astype(int))])
        rows = [slice(first[i], first[i + 1]) for i in range(8)]
        with h5py.File(tmp_path / "c.h5", "w") as file:
            group = file.create_group("s66/a")
            group["species"] = np.array([{1: "H", 8: "O"}[z] for z in found["z"][rows[0]]], dtype=h5py.string_dtype())
            group["coordinates"] = np.stack([found["pos"][r] for r in rows])
            group["energies"] = found["E_Ha"][:8]
            group["forces"] = np.stack([found["gradient_Ha_per_A"][r] for r in rows])
        expected = -found["gradient_Ha_per_A"][rows[3]] * HARTREE
    molecules, _ = read(tmp_path / "c.h5", forces_key="-forces")
    assert molecules[3].labels["forces"] == pytest.approx(expected)


@pytest.mark.parametrize(("symbols", "fault"), [(["C", "Qq"], "'Qq', expected symbols"), (["C"], "symbols of 6 atoms")])
def test_symbols_nobody_knows_are_refused(tmp_path, symbols, fault):
    path, options = write_file(tmp_path, "ani1", conformations())
    with h5py.File(path, "r+") as file:
        group = file["gdb11_s02/gdb11_s02-0"]
        del group["species"]
        group["species"] = np.array((symbols * 6)[: 6 if len(symbols) > 1 else 1], dtype="S2")
    with pytest.raises(StructureError, match=fault):
        list(read_molecules(path, Reading(**options)))


def test_links_out_of_a_file_and_in_circles_are_refused(tmp_path):
    path, _ = write_file(tmp_path, "ani1x", conformations())
    with h5py.File(path, "r+") as file:
        file["also"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(StructureError, match="also is a link to another place"):
        list(read_molecules(path))
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["b"] = group
    with pytest.raises(StructureError, match="damaged"):
        list(read_molecules(path))


def test_arrays_without_a_group_have_no_unit_of_their_own(tmp_path):
    path, _ = write_file(tmp_path, "flat-h5", conformations())
    with pytest.raises(ValueError, match="does not say its units"):
        read_molecules(path)


# --- NumPy and MATLAB


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_archives_in_fortran_order_and_big_endian_are_read(tmp_path):
    R, E, F = arrays(conformations())
    z = conformations(1)[0].numbers
    path = write_npz(tmp_path / "f.npz", z=z, R=np.asfortranarray(R).astype(">f8"), E=E, F=np.asfortranarray(F))
    molecules = list(read_molecules(path, Reading(energy_unit="eV")))
    assert np.array([m.positions for m in molecules]) == pytest.approx(R)
    assert np.array([m.labels["forces"] for m in molecules]) == pytest.approx(F)


def test_the_names_of_rmd17_and_the_units_of_sgdml_are_known(tmp_path):
    R, E, F = arrays(conformations())
    z = conformations(1)[0].numbers
    rmd17 = write_npz(tmp_path / "r.npz", nuclear_charges=z, coords=R, energies=E, forces=F, old_indices=E)
    assert read(rmd17, energy_unit="kcal/mol")[0][2].labels["energy"] == pytest.approx(E[2] * KCAL_PER_MOL)
    units = {"e_unit": "kcal/mol", "r_unit": "Ang", "theory": "PBE+TS"}
    store, report = load_store(write_npz(tmp_path / "s.npz", z=z, R=R, E=E[:, None], F=F, **units))
    assert store[2].labels["energy"] == pytest.approx(E[2] * KCAL_PER_MOL)
    assert (report.energy_unit, store.manifest.level_of_theory) == ("kcal/mol", "PBE+TS")
    assert read(tmp_path / "s.npz", energy_unit="eV")[0][2].labels["energy"] == E[2]


def test_qm7_is_padded_and_in_bohr(tmp_path):
    R = np.zeros((2, 3, 3), dtype=np.float32)
    R[0, 1, 0] = R[1, 1, 0] = R[1, 2, 1] = 1.8
    Z = np.array([[8, 1, 0], [8, 1, 1]], dtype=np.float32)
    T, P, X = np.array([[-100.0, -200.0]]), np.array([[0, 1]]), np.zeros((2, 3, 3))
    savemat(tmp_path / "qm7.mat", {"X": X, "R": R, "Z": Z, "T": T, "P": P})
    molecules, report = read(tmp_path / "qm7.mat", energy_key="T", energy_unit="kcal/mol")
    assert [m.formula for m in molecules] == ["HO", "H2O"]
    assert np.linalg.norm(molecules[1].positions[1] - molecules[1].positions[0]) == pytest.approx(1.8 * BOHR)
    assert molecules[1].labels["energy"] == pytest.approx(-200 * KCAL_PER_MOL)
    assert report.length_unit == "bohr"
    with pytest.raises(ValueError, match=r'a .mat does not say its units; give energy_unit \("kcal/mol" for QM7'):
        read_molecules(tmp_path / "qm7.mat", Reading(energy_key="T"))


def test_half_an_atom_is_no_element(tmp_path):
    path = write_npz(tmp_path / "h.npz", z=np.array([[1.5]]), R=np.zeros((1, 1, 3)))
    with pytest.raises(StructureError, match=r"h.npz:0: atomic numbers must be whole numbers, got \[1.5\]"):
        list(read_molecules(path))


def header(shape):
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return text.getvalue()


def test_an_array_that_says_it_is_huge_is_refused_before_it_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("z.npy", header((2,)) + bytes(16))
        file.writestr("R.npy", header((10**15, 2, 3)) + bytes(10**6))
    with pytest.raises(StructureError, match=r"R has 1000\d+ bytes, which \[1000000000000000, 2, 3\] does not fit"):
        read_molecules(tmp_path / "b.npz")


def test_a_checksum_that_is_wrong_is_told_at_the_end(tmp_path):
    path, options = write_file(tmp_path, "npz", conformations())
    content = bytearray(path.read_bytes())
    place = content.find(np.float64(arrays(conformations())[0][2, 1, 1]).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(StructureError, match="Bad CRC-32"):
        list(read_molecules(path, Reading(**options)))
