"""The state file is replaced all or nothing, runs no code when it is read, and survives a full disk."""

import errno
import os
import pickle

import pytest
import torch

from basinet.files import read_torch, temporary_path, write_torch
from small_runs import differences

OLD, NEW = {"step": 1, "weights": torch.arange(3)}, {"step": 2, "weights": torch.arange(3) + 1}


class FullDisk:
    """A file that takes ``room`` bytes and then says that the disk is full."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 100, 700])
def test_a_disk_that_fills_while_a_state_is_written_leaves_the_old_one(tmp_path, monkeypatch, room):
    path = tmp_path / "state.pt"
    write_torch(path, OLD)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda value, file: save(value, FullDisk(file, room)))
    with pytest.raises(
        OSError, match=r"cannot write .*state\.pt: .*is the disk full\? The file written before is intact"
    ):
        write_torch(path, NEW)
    assert differences(read_torch(path), OLD) == []
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_full_device_is_told_as_such(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    temporary_path(tmp_path / "state.pt").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*is the disk full\?"):
        write_torch(tmp_path / "state.pt", NEW)
    assert os.listdir(tmp_path) == []


def test_a_process_killed_before_the_replacement_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    write_torch(path, OLD)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", die)
        write_torch(path, NEW)
    assert differences(read_torch(path), OLD) == []
    write_torch(path, NEW)
    assert differences(read_torch(path), NEW) == []


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_damaged_state_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "state.pt"
    write_torch(path, NEW)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"state\.pt cannot be read as a saved state"):
        read_torch(path)


def test_a_state_that_would_run_code_is_refused_unread(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    path = tmp_path / "state.pt"
    path.write_bytes(pickle.dumps({"step": Evil()}))
    with pytest.raises(ValueError, match="cannot be read"):
        read_torch(path)
    torch.save({"step": Evil()}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_torch(path)
    assert not (tmp_path / "evil").exists()


def test_a_missing_state_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "state.pt")
