"""Copy the records of an LMDB file to the standard output, in a process of its own: ``python lmdb_pages.py FILE``.

LMDB trusts its file, and damaged pages crash the process. This program imports nothing of the package and starts in a
few hundredths of a second. Output: a record without a key, whose value is the number of records as text; the records,
numbered keys first (``1, 2 ... 10``); a record without key and value. A record is the lengths of key and value (two
little-endian 32-bit numbers), the key and the value.
"""

import faulthandler
import os
import struct
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

LENGTHS = struct.Struct("<II")
LIMIT = 60
"""Seconds that the library may take for one block of records; a damaged file can put it into an endless loop."""
BLOCK = 64


def copy_records(path: str) -> None:
    """Write all records to the standard output."""
    import lmdb

    options = {"subdir": False, "readonly": True, "lock": False, "create": False, "map_size": os.path.getsize(path)}
    environment = lmdb.open(path, **options)
    with environment.begin() as transaction:
        entries = int(environment.stat()["entries"])
        _write(b"", str(entries).encode())
        records = _records(transaction, entries)
        block: list[tuple[bytes, bytes]] = []
        while True:
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            block = list(islice(records, BLOCK))
            faulthandler.cancel_dump_traceback_later()
            if not block:
                break
            for key, value in block:
                _write(key, value)
    _write(b"", b"")
    sys.stdout.buffer.flush()


def _records(transaction: Any, entries: int) -> Iterator[tuple[bytes, bytes]]:
    first = number = 0 if transaction.get(b"0") is not None else 1
    while (value := transaction.get(key := str(number).encode())) is not None:
        yield key, value
        number += 1
    later: list[int] = []  # numbers after a gap
    for count, (key, value) in enumerate(transaction.cursor()):
        if count >= entries:
            raise ValueError("there are more records than it says")
        text = key.decode("ascii", errors="replace")
        if not text.isdecimal() or str(int(text)) != text:
            yield key, value
        elif not first <= int(text) < number:
            later.append(int(text))
    for other in sorted(later):
        yield str(other).encode(), transaction.get(str(other).encode())


def _write(key: bytes, value: bytes) -> None:
    sys.stdout.buffer.write(LENGTHS.pack(len(key), len(value)) + key + value)


if __name__ == "__main__":
    copy_records(sys.argv[1])
