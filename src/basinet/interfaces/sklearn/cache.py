"""Keep rows of features in a file, so that nothing is computed twice."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import Float32

Kept = Float32[np.ndarray, "_"] | str
"""Features of a compound, or the reason for having none."""
PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


class FeatureCache:
    """Features by key, in an SQLite file that several processes may share.

    Args:
        path: the file; made when something is first kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, keys: Iterable[str]) -> dict[str, Kept]:
        """Return the entries of some keys; missing keys are left out.

        Raises:
            ValueError: the file is not a cache.
        """
        if not self.path.exists():
            return {}
        found: dict[str, Kept] = {}
        with closing(self._open()) as file:
            for key in keys:
                row = file.execute("SELECT features, reason FROM kept WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = row[1] if row[0] is None else np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        return found

    def keep(self, rows: Mapping[str, Kept]) -> None:
        """Add rows, all or none of them."""
        values = [
            (key, None, one) if isinstance(one, str) else (key, np.asarray(one, dtype="<f4").tobytes(), None)
            for key, one in rows.items()
        ]
        with closing(self._open()) as file, file:
            file.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", values)

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self.path, timeout=PATIENCE)
        try:
            file.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, features BLOB, reason TEXT)")
        except sqlite3.DatabaseError as error:
            file.close()
            raise ValueError(
                f"{self.path} is not a cache of features ({error}); delete it, or give another path as cache="
            ) from error
        return file
