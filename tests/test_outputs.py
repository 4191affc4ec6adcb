"""Outputs: links and devices stay what they are, modes follow the umask, a file that does not fit is named."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from basinet.backbones.build import build_backbone
from basinet.files import NoRoomError, place_of, replacing, room_for, write_array_directory, write_text
from basinet.models.checkpoint import save_model
from basinet.models.model import build_model
from small_runs import TINY


def test_a_link_stays_and_the_file_it_leads_to_is_replaced(tmp_path):
    target, link = tmp_path / "kept" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "link.txt"]


def test_a_pipe_is_refused_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(FileExistsError, match="a device, a pipe or a socket; expected a file"):
            write_text(path, "text")
    with pytest.raises(FileExistsError):
        write_array_directory(pipe, {"a": np.zeros(2)})
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no devices")
def test_a_device_is_refused():
    with pytest.raises(FileExistsError, match="a device"):
        place_of(Path("/dev/null"))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_model_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_model(build_model(build_backbone(TINY), ["energy"]), tmp_path / "m.safetensors", TINY)
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    for name in ("m.safetensors", "a.txt"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        OSError("67500 requested and 992 written"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_what_to_do(tmp_path, error):
    path = tmp_path / "a.csv"
    message = r"cannot write .*a\.csv: .*the same command goes on \(with --resume"
    with pytest.raises(NoRoomError, match=message), replacing(path):
        raise error
    with pytest.raises(NoRoomError, match=r"cannot write .*a\.csv"), room_for(path):
        raise error
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), room_for(tmp_path):
        raise PermissionError(errno.EACCES, "no")
