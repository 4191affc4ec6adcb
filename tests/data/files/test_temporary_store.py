"""A file too large for memory becomes a store on the disk, the same one, which leaves nothing behind."""

import tempfile

import numpy as np
import pytest

from basinet.data import readers
from basinet.data.readers import Reading, load_store
from data_files import conformations, write_file


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.mark.parametrize("n", [1, 6, 7, 12])
def test_a_store_on_the_disk_is_that_in_memory(n, tmp_path, temporary, monkeypatch):
    path, _ = write_file(tmp_path, "extxyz", conformations(n))
    in_memory, _ = load_store(path, Reading(level_of_theory="DFT"))
    monkeypatch.setattr(readers, "IN_MEMORY", 6 * 3)
    on_disk, report = load_store(path, Reading(level_of_theory="DFT"))
    assert on_disk.fingerprint == in_memory.fingerprint
    assert (len(on_disk), report.n_molecules, on_disk.manifest.level_of_theory) == (n, n, "DFT")
    assert list(temporary.iterdir()) == []
    for a, b in zip(on_disk, in_memory, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert a.labels["energy"] == b.labels["energy"]


def test_a_file_that_turns_out_to_be_damaged_leaves_nothing(tmp_path, temporary, monkeypatch):
    path, _ = write_file(tmp_path, "extxyz", conformations(8))
    path.write_text(path.read_text()[:-50])
    monkeypatch.setattr(readers, "IN_MEMORY", 6 * 3)
    with pytest.raises(ValueError, match="truncated"):
        load_store(path)
    assert list(temporary.iterdir()) == []
