"""Read arrays of NumPy archives (``.npz``) and MATLAB files (``.mat``) row by row.

The rows of an archive are read as a stream, so memory does not grow with it, compressed or not; only an array in
Fortran order, whose rows are scattered, is read whole. A MATLAB file is read whole: those of the field are small.
"""

import io
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from basinet.data.files.report import damaged_file

BUFFER = 2**18
"""Bytes of an array to read at once."""
MAX_WHOLE = 2**31
"""Largest array to read whole, bytes."""
MAT_MAGIC = b"MATLAB 5.0 MAT-file"


class Header(NamedTuple):
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool = False

    @property
    def size(self) -> int:
        """Number of elements, without overflow."""
        return math.prod(self.shape)

    @property
    def is_numeric(self) -> bool:
        """True for plain numbers."""
        return self.dtype.kind in "fiu"


class Rows:
    """A stream of equal rows."""

    def __init__(self, read: Callable[[int], bytes], n_rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._read, self._left = read, n_rows
        self._shape, self._dtype = shape, dtype
        self._row_bytes = dtype.itemsize * math.prod(shape)

    def take(self, n: int) -> np.ndarray:
        """Return the next ``n`` rows.

        Raises:
            EOFError: the file ends before.
        """
        wanted = n * self._row_bytes
        content = self._read(wanted)
        self._left -= n
        if len(content) != wanted or (self._left == 0 and self._read(1)):  # reading its end compares the checksum
            raise EOFError("the array is shorter or longer than it says")
        return np.frombuffer(content, self._dtype).reshape(n, *self._shape)


class ArrayFile(ABC):
    """A file of named arrays."""

    headers: Mapping[str, Header]

    @abstractmethod
    def rows(self, name: str, n_rows: int) -> Rows:
        """Return an array as a stream of ``n_rows`` rows, from the first."""

    def text(self, name: str) -> str:
        """Return an array that holds one text; empty if it is not there or something else."""
        header = self.headers.get(name)
        if header is None or header.size != 1 or header.dtype.kind not in "SU" or header.dtype.itemsize > BUFFER:
            return ""
        value = self.rows(name, 1).take(1).reshape(-1)[0]
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class NpzFile(ArrayFile):
    """A NumPy archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        if foreign := [i.filename for i in archive.infolist() if not i.filename.endswith(".npy")]:
            raise ValueError(f"{foreign[0][:40]!r} in it is not an array")
        self._members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
        self.headers = {name: self._open(name)[0] for name in self._members}

    def _open(self, name: str) -> tuple[Header, io.BufferedReader]:
        member = self._members[name]
        file = io.BufferedReader(self._archive.open(member), BUFFER)  # pyright: ignore[reportArgumentType]
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        version = npy.read_magic(file)
        if version not in readers:
            raise ValueError(f"{name} is of version {version}")
        shape, is_fortran, dtype = readers[version](file)
        header = Header(shape, dtype, is_fortran)
        if header.dtype.hasobject:
            raise ValueError(f"{name} holds pickled objects, which are not loaded")
        if header.size * header.dtype.itemsize != member.file_size - file.tell() or min(header.shape, default=0) < 0:
            raise ValueError(f"{name} has {member.file_size} bytes, which {list(header.shape)} does not fit")
        return header, file

    def rows(self, name: str, n_rows: int) -> Rows:
        """Return an array as a stream of rows."""
        header, file = self._open(name)
        shape = _row_shape(header, n_rows)
        if not header.is_fortran or len(header.shape) < 2:
            return Rows(file.read, n_rows, shape, header.dtype)
        if header.size * header.dtype.itemsize > MAX_WHOLE:
            raise ValueError(f"{name} is in Fortran order; write it again with numpy.ascontiguousarray")
        flat = Rows(file.read, header.size, (), header.dtype).take(header.size)
        return _rows_of(flat.reshape(header.shape, order="F"), n_rows)


class MatFile(ArrayFile):
    """The arrays of a MATLAB file, in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.headers = {name: Header(a.shape, a.dtype) for name, a in arrays.items()}

    def rows(self, name: str, n_rows: int) -> Rows:
        """Return an array as a stream of rows."""
        return _rows_of(self._arrays[name], n_rows)


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """Open a NumPy archive or a MATLAB file.

    Raises:
        StructureError: it is damaged or holds pickled objects; also for what the body of the ``with`` meets in it.
    """
    with open(path, "rb") as file:
        is_mat = file.read(len(MAT_MAGIC)) == MAT_MAGIC
    what = "a MATLAB file" if is_mat else "an .npz"
    with damaged_file(f"{path}: not {what} of plain arrays, or truncated"):
        if is_mat:
            yield MatFile(_read_mat(path))
        else:
            with zipfile.ZipFile(path) as archive:
                yield NpzFile(archive)


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat

    found = loadmat(path, appendmat=False)
    return {name: a for name, a in found.items() if isinstance(a, np.ndarray) and not a.dtype.hasobject}


def _row_shape(header: Header, n_rows: int) -> tuple[int, ...]:
    """Return the shape of one row; one number a row may come in any shape, such as [1, n]."""
    return () if header.size == n_rows else header.shape[1:]


def _rows_of(array: np.ndarray, n_rows: int) -> Rows:
    array = np.ascontiguousarray(array)
    header = Header(array.shape, array.dtype)
    return Rows(io.BytesIO(array.tobytes()).read, n_rows, _row_shape(header, n_rows), array.dtype)
