"""Keep downloaded files in a cache, with the hash of each and where it is published."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pooch

from basinet.data.sources.collection import RemoteFile
from basinet.files import write_text

DIRECTORY_VARIABLE = "BASINET_DATA"
OFFLINE_VARIABLE = "BASINET_OFFLINE"
LOCK_FILE = "files.lock.json"
"""Name of the record, beside the files, of their SHA-256, size and origin."""


class WrongFileError(ValueError):
    """Error about a file that differs from the published one, or from the first download."""


def cache_directory() -> Path:
    """Return the directory of the cache: ``BASINET_DATA``, or the default of the system."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("basinet"))


def is_offline() -> bool:
    """Return True if the network must not be used.

    Raises:
        ValueError: ``BASINET_OFFLINE`` is neither 0 nor 1.
    """
    value = os.environ.get(OFFLINE_VARIABLE, "0")
    if value not in ("", "0", "1"):
        raise ValueError(f"{OFFLINE_VARIABLE} must be 0 or 1, got {value!r}")
    return value == "1"


def verify(path: Path, file: RemoteFile, origin: str, place: Path | None = None) -> str:
    """Return the SHA-256 of a file, after comparing it with the published one, or with that of the first download.

    The result is recorded beside the file; a file of the same size and time is not read again.

    Args:
        path: The file, or a download that is to replace it.
        file: The published file.
        origin: Address, for the record.
        place: Final path; ``None``: ``path``.

    Raises:
        WrongFileError: the files differ.
    """
    place = path if place is None else place
    records = read_lock(place.parent)
    record = records.get(file.name, {})
    stat = path.stat()
    seen = {"n_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    believed = file.checksum.partition(":")[0] if file.checksum else "first use"
    was_believed = (
        path == place and "sha256" in record and (file.checksum is None or record.get("believed") == believed)
    )
    if was_believed and all(record.get(key) == value for key, value in seen.items()):
        return str(record["sha256"])
    if file.n_bytes is not None and stat.st_size != file.n_bytes:
        raise WrongFileError(f"it has {stat.st_size:,} bytes, expected {file.n_bytes:,}")
    found = _digests(path)
    if file.checksum is not None:
        algorithm, _, expected = file.checksum.partition(":")
        if found[algorithm] != expected:
            raise WrongFileError(f"its {algorithm} is {found[algorithm]}, but {expected} was published")
    elif "sha256" in record and record["sha256"] != found["sha256"]:
        raise WrongFileError(
            f"its sha256 is {found['sha256']}, but the file that was here first had {record['sha256']}; if the new one "
            f"is right, delete the entry {file.name!r} from {place.parent / LOCK_FILE}"
        )
    record = {"sha256": found["sha256"], **seen, "origin": origin, "believed": believed}
    write_lock(place.parent, {**records, file.name: record})
    return found["sha256"]


def read_lock(directory: Path) -> dict[str, Any]:
    """Return the record of the files in a directory.

    Raises:
        ValueError: the record is damaged.
    """
    path = directory / LOCK_FILE
    try:
        records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        records = None
    if not isinstance(records, dict) or not all(isinstance(record, dict) for record in records.values()):
        raise ValueError(f"{path} is damaged; delete it; the files beside it are then accepted as they are")
    return records


def write_lock(directory: Path, records: Mapping[str, Any]) -> None:
    """Write the record of the files in a directory."""
    write_text(directory / LOCK_FILE, json.dumps(records, indent=1, sort_keys=True) + "\n")


def _digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 and MD5 of a file."""
    hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with open(path, "rb") as file:
        while block := file.read(2**20):
            for one in hashes.values():
                one.update(block)
    return {name: one.hexdigest() for name, one in hashes.items()}
