"""Files that grow a piece at a time and can be gone on with: killed at any moment, what was written counts."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from basinet.files import move, write_text

STATE_FILE = "state.json"
PIECE = 1 << 20
"""Bytes of a file that are hashed at once."""


class Journal:
    """Unfinished files in a directory ``<out>.partial`` beside the place of the finished one.

    A piece is written to all files, synced, and only then counted. What follows the last count, because the process
    was killed, is cut off when the journal is opened again. A journal of something else (another input, model or
    setting) is thrown away.

    Args:
        out: the file that will be there at the end.
        names: of the files in the journal.
        fingerprint: of all that decides what is written.
    """

    def __init__(self, out: Path, names: Sequence[str], fingerprint: str) -> None:
        self.directory = out.with_name(f"{out.name}.partial")
        self._fingerprint = fingerprint
        state = self._read(names)
        if state is None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
            state = {"fingerprint": fingerprint, "done": 0, "sizes": dict.fromkeys(names, 0), "notes": {}}
        self.done: int = state["done"]
        """Records that need not be computed again."""
        self.notes: dict[str, Any] = state["notes"]
        """What the writer wants to know when it goes on."""
        self._sizes: dict[str, int] = state["sizes"]
        for name, size in self._sizes.items():
            (self.directory / name).touch()
            os.truncate(self.directory / name, size)

    def _read(self, names: Sequence[str]) -> dict[str, Any] | None:
        """Return the state of the same work; ``None`` if there is none that can be gone on with."""
        try:
            state = json.loads((self.directory / STATE_FILE).read_text(encoding="utf-8"))
            sizes: dict[str, int] = state["sizes"]
            whole = all((self.directory / name).stat().st_size >= size for name, size in sizes.items())
            same = state["fingerprint"] == self._fingerprint and set(sizes) == set(names)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return state if whole and same else None

    def path(self, name: str) -> Path:
        """Return where one of the files is."""
        return self.directory / name

    def append(self, pieces: Mapping[str, bytes], n_records: int, notes: Mapping[str, Any] | None = None) -> None:
        """Add a piece to each file, and count the records in them."""
        for name, piece in pieces.items():
            with open(self.directory / name, "ab") as file:
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            self._sizes[name] += len(piece)
        self.done += n_records
        self.notes |= notes or {}
        state = {"fingerprint": self._fingerprint, "done": self.done, "sizes": self._sizes, "notes": self.notes}
        write_text(self.directory / STATE_FILE, json.dumps(state))

    def finish(self, places: Mapping[str, Path]) -> None:
        """Move the files to where they belong and remove the journal; the last one named appears last."""
        for name, place in places.items():
            move(self.directory / name, place)
        self.discard()

    def discard(self) -> None:
        """Remove all files of the journal."""
        shutil.rmtree(self.directory, ignore_errors=True)


def fingerprint_of(paths: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Return a hash of files (of a store, its manifest) and of settings."""
    digest = sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in paths:
        with open(path / "manifest.json" if path.is_dir() else path, "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
        digest.update(b"|")
    return digest.hexdigest()
