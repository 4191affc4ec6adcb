"""Write files that appear whole or not at all, read saved tensors, and map .npy files into memory.

A file is written beside its place, synced to the disk and renamed: whatever happens, a reader sees the old file or the
new one, never a part.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_native_id
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped

TEMPORARY = ".tmp-"
"""Beginning of the names of unfinished files."""
GO_ON = "make room, then the same command goes on (with --resume where it has that option)"
"""What to do about a full disk."""


@runtime_checkable
class Stream(Protocol):
    """A file to read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, or all."""
        ...


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by some bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_torch(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file by tensors and plain values, with ``torch.save``.

    Raises:
        OSError: it could not be written; the file written before is intact.
    """
    # torch reports a full disk as a RuntimeError of its zip writer.
    with replacing(path, OSError, RuntimeError) as temporary, open(temporary, "wb") as file:
        torch.save(dict(value), file)


def read_torch(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read tensors and plain values; files that would run code are refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds anything else.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a saved state ({type(error).__name__}: {error})") from None


@contextmanager
def replacing(path: Path, *failures: type[Exception]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on success it replaces ``path``, otherwise it is deleted.

    A link stays, and the file that it leads to is replaced. The file has the mode of the one before, or of the umask.

    Args:
        path: File to write.
        failures: Errors to raise as an ``OSError`` that names the file.
    """
    path = place_of(path)
    temporary = temporary_path(path)
    with room_for(path):
        try:
            temporary.touch()
            mode = (path if path.exists() else temporary).stat().st_mode
            yield temporary
            # Some writers make files that only their owner can read.
            temporary.chmod(stat.S_IMODE(mode | temporary.stat().st_mode & 0o111))
            _sync(temporary, os.O_RDWR)
            move(temporary, path)
        except failures as error:
            raise OSError(
                f"cannot write {path}: {error}; is the disk full? The file written before is intact: {GO_ON}"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory beside ``path`` to write files to; on success it becomes ``path``."""
    temporary = temporary_path(path)
    try:
        with room_for(path):
            temporary.mkdir()
            yield temporary
            for file in temporary.iterdir():
                _sync(file, os.O_RDWR)
            _sync_names(temporary)
            move(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """Return where the content of ``path`` is written; no other thread or process uses the same place."""
    return path.with_name(f"{TEMPORARY}{get_native_id()}-{path.name}")


def place_of(path: Path) -> Path:
    """Return where a file is written: its path, or where a link leads.

    Raises:
        FileExistsError: a device, a pipe or a socket is there.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = place.stat().st_mode
    except OSError:
        return place
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileExistsError(f"{path} is a device, a pipe or a socket; expected a file to write, choose another path")
    return place


class NoRoomError(OSError):
    """A file does not fit on the disk, or under a limit on its size."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"cannot write {path}: {why}. What was finished before is intact: {GO_ON}")
        self.why = why


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Name the file, and say what to do, where a file does not fit.

    Raises:
        NoRoomError: the disk is full, or a file would be larger than allowed.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, NoRoomError) or not is_no_room(error):
            raise
        raise NoRoomError(path, os.strerror(error.errno or errno.ENOSPC)) from error


def is_no_room(error: OSError) -> bool:
    """Return whether an error says that a file does not fit; NumPy raises it without a number."""
    full = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
    return error.errno in full or (error.errno is None and "requested and" in str(error))


def move(source: Path, target: Path) -> None:
    """Rename a file or directory, replacing a file that is there, and make the new name survive a power cut."""
    target = place_of(target)
    os.replace(source, target)
    _sync_names(target.parent)


def write_array_directory(path: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Write ``<name>.npy`` files into a new directory."""
    with new_directory(path) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)


def map_array(path: Path) -> Shaped[np.ndarray, "..."]:
    """Map a .npy file into memory, read on demand.

    ``numpy.load(mmap_mode="r")`` keeps a file descriptor for each array, so a store of many shards would run out of
    them; torch maps the file and closes it. The mapping is private: nothing written to the array reaches the file.
    """
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran_order, dtype = read_header[version](file)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is not a .npy file this store could have written: {error}") from None
        start = file.tell()
    n_bytes = path.stat().st_size
    expected = start + dtype.itemsize * int(np.prod(shape))
    if fortran_order or dtype.hasobject or n_bytes != expected:
        raise ValueError(f"{path} is damaged: {n_bytes} bytes of {dtype} {list(shape)}, expected {expected}")
    whole = torch.from_file(str(path), shared=False, size=n_bytes, dtype=torch.uint8).numpy()
    return whole[start:].view(dtype).reshape(shape)


def _sync_names(directory: Path) -> None:
    if os.name == "posix":  # Windows cannot open directories
        _sync(directory, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    """Bring a file, or the names in a directory, from the caches of the system to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
