"""The place where HDF5 keeps texts of any length, checked before HDF5 reads it.

The library (2.0.0) walks through this heap by the sizes that its objects say they have, and never comes back
if one of them is damaged: size 0, or one that overflows. Format: HDF5 File Format Specification 3.0, III.E.
"""

import os
import struct
from pathlib import Path
from typing import Any

from basinet.structures import StructureError

_REFERENCE, _HEADER, _OBJECT = struct.Struct("<IQI"), struct.Struct("<4sB3xQ"), struct.Struct("<HHIQ")
MAX_HEAP = 2**28
"""Bytes of one collection; those of short texts have 4096."""


def check_heap(path: Path, array: Any) -> None:
    """Check the collection that the first text of an array is in; arrays stored in chunks are not checked.

    Raises:
        StructureError: the collection is damaged.
    """
    offset = array.id.get_offset() if array.chunks is None else None
    if offset is None:
        return
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        address = _unpack(file, offset, size, _REFERENCE)[1]
        magic, version, length = _unpack(file, address, size, _HEADER)
        if magic != b"GCOL" or version != 1 or not _HEADER.size <= length <= min(MAX_HEAP, size - address):
            raise StructureError(f"{path}: the texts of {array.name} are not where it says: the file is damaged")
        objects = file.read(length - _HEADER.size)
    place = 0
    while len(objects) - place >= _OBJECT.size:
        index, _, _, n_bytes = _OBJECT.unpack_from(objects, place)
        place += n_bytes if index == 0 else _OBJECT.size + (n_bytes + 7) // 8 * 8
        if place > len(objects) or (index == 0 and place != len(objects)):
            raise StructureError(f"{path}: the list of the texts of {array.name} is damaged")


def _unpack(file: Any, offset: int, size: int, record: struct.Struct) -> tuple[Any, ...]:
    if offset + record.size > size:
        raise StructureError(f"{file.name}: ends before the texts that it refers to; it is truncated")
    file.seek(offset)
    return record.unpack(file.read(record.size))
