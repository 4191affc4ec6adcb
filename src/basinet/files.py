"""Files that are either there in full or not there: atomic writes, and .npy files mapped into memory."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped

TEMPORARY = ".tmp-"
"""What the names of unfinished files begin with."""


@runtime_checkable
class Stream(Protocol):
    """What can be read."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, or all."""
        ...


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: whatever happens, a reader sees the old text or the new."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on success it takes the place of ``path``, else it goes."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory to write files to that are then synced; on success it becomes ``path``."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        temporary.mkdir()
        yield temporary
        _sync_directory(temporary)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_array_directory(path: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Write ``<name>.npy`` files into a new directory that appears only when all of them are on the disk."""
    with new_directory(path) as temporary:
        for name, array in arrays.items():
            with open(temporary / f"{name}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())


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


def _sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut (a no-op where directories cannot be opened: Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
