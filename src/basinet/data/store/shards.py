"""Read the manifest and the shards of a store, and name damage."""

from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np

from basinet.data.store.arrays import FlatArrays
from basinet.data.store.manifest import MANIFEST_FILE, Manifest, ShardEntry
from basinet.files import map_array, new_directory

COPIED_AT_ONCE = 2**20
"""Bytes to copy at once."""


def shard_name(number: int) -> str:
    """Return the name of a shard's directory."""
    return f"shard-{number:05d}"


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the store in a directory."""
    file = path / MANIFEST_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if (path / "data.mdb").is_file():
        raise ValueError(f"{path} is a directory of LMDB and no basinet store; give the file: {path / 'data.mdb'}")
    if not file.is_file():
        raise ValueError(f"{path} is not a basinet store: it has no {MANIFEST_FILE}")
    return Manifest.from_json(file.read_text(encoding="utf-8"), str(file))


def read_shard(path: Path, entry: ShardEntry, verify: bool) -> FlatArrays:
    """Map one shard of the store in ``path``; check sizes always, hashes if ``verify``."""
    arrays: dict[str, np.ndarray] = {}
    for name, expected in entry.files.items():
        file = path / entry.name / name
        if not file.is_file():
            raise ValueError(f"{file} is missing; the store is damaged: copy it again or write it anew")
        if (n_bytes := file.stat().st_size) != expected.n_bytes:
            raise ValueError(
                f"{file} has {n_bytes} bytes, expected {expected.n_bytes}; the store is damaged: copy it again"
            )
        if verify and _sha256(file) != expected.sha256:
            raise ValueError(f"{file} does not have the hash in the manifest; the store is damaged: copy it again")
        arrays[name.removesuffix(".npy")] = map_array(file)
    try:
        return FlatArrays.from_files(arrays)
    except ValueError as error:
        raise ValueError(f"{path / entry.name} is damaged: {error}") from None


def copy_shard(source: Path, entry: ShardEntry, target: Path) -> None:
    """Copy a shard of the store in ``source`` to a new directory ``target``, all or nothing.

    Raises:
        ValueError: a file is not what the manifest says.
    """
    with new_directory(target) as temporary:
        for name, expected in entry.files.items():
            file, hashed = source / entry.name / name, sha256()
            if not file.is_file():
                raise ValueError(f"{file} is missing; the store is damaged: copy it again or write it anew")
            with open(file, "rb") as original, open(temporary / name, "wb") as copy:
                while block := original.read(COPIED_AT_ONCE):
                    hashed.update(block)
                    copy.write(block)
            if hashed.hexdigest() != expected.sha256:
                raise ValueError(f"{file} does not have the hash in the manifest; the store is damaged: copy it again")


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
