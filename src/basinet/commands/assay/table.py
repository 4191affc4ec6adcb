"""Read a table of measurements as compounds with one canonical SMILES and one label each."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from basinet.data.chemistry.compounds import Fragments, canonical_compound
from basinet.data.chemistry.conformers import GenerationError
from basinet.data.files.table import read_rows, require_columns, smiles_column
from basinet.structures import StructureError

NAMED = 5
"""Rows named in a message; further ones are counted."""
MISSING = frozenset({"", "nan", "na", "n/a", "none", "null"})
"""Cells without a measurement, in lower case."""
ALIKE = 1e-9
"""Relative difference below which labels of one compound are equal."""


@dataclass(slots=True)
class Row:
    """A row and its use."""

    number: int
    """Number after the header, from 0."""
    smiles: str
    """As written."""
    label: float | None
    time: float
    compound: str = ""
    """Canonical SMILES; empty if there is none."""
    reason: str = ""
    """Reason why it is not used; empty if it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compounds:
    """Compounds in the order of their first rows, and all rows."""

    smiles: list[str]
    labels: Float64[np.ndarray, " n"]
    times: Float64[np.ndarray, " n"]
    """Time of the latest row of each compound: no measurement in its label is later."""
    rows: list[Row]
    n_repeated: int
    """Compounds with several rows."""
    n_differing: int
    """Compounds with several rows whose labels differ."""
    largest_difference: tuple[str, float]
    """The compound whose labels differ most, and the difference."""

    def select(self, keep: Sequence[int]) -> "Compounds":
        """Return some of the compounds, with all rows."""
        index = np.asarray(keep, dtype=np.int64)
        return Compounds(
            smiles=[self.smiles[i] for i in index],
            labels=self.labels[index],
            times=self.times[index],
            rows=self.rows,
            n_repeated=self.n_repeated,
            n_differing=self.n_differing,
            largest_difference=self.largest_difference,
        )

    def dropped(self) -> Counter[str]:
        """Count the rows that are not used, by reason."""
        return Counter(row.reason for row in self.rows if row.reason)


@dataclass(kw_only=True)
class _Group:
    rows: list[Row] = field(default_factory=list)

    @property
    def labels(self) -> list[float]:
        return [row.label for row in self.rows if row.label is not None]

    @property
    def difference(self) -> float:
        return max(self.labels) - min(self.labels)

    @property
    def differs(self) -> bool:
        return self.difference > ALIKE * max(abs(label) for label in self.labels)


def read_assay(
    path: Path,
    target: str,
    smiles: str | None,
    *,
    time: str | None = None,
    duplicates: Literal["median", "mean", "drop"] = "median",
    fragments: Fragments = "refuse",
) -> Compounds:
    """Read a table; rows of one canonical SMILES become one compound.

    Args:
        path: the table.
        target: column of the labels.
        smiles: column of the SMILES; ``None``: ``smiles``.
        time: column of dates or numbers.
        duplicates: label of a compound with several rows; ``drop`` leaves out those whose labels differ.
        fragments: treatment of salts.

    Raises:
        StructureError: a column is missing, or holds text that is not a number; the message names the rows.
        ValueError: no compound is left.
    """
    column = smiles_column(path, smiles)
    require_columns(path, [target], "target=")
    if time is not None:
        require_columns(path, [time], "time=")
    rows = _rows(path, column, target, time)
    for row in rows:
        if row.reason:
            continue
        try:
            row.compound = canonical_compound(row.smiles, fragments)
        except GenerationError as error:
            row.reason = f"SMILES: {error}"
    return _joined(path, rows, duplicates)


def _rows(path: Path, smiles: str, target: str, time: str | None) -> list[Row]:
    rows: list[Row] = []
    wrong: list[str] = []
    bad_times: list[str] = []
    for number, cells in enumerate(read_rows(path)):
        row = Row(number, cells[smiles], None, 0.0)
        if cells[target].lower() in MISSING:
            row.reason = f"no {target}"
        else:
            row.label = _number(cells[target])
            if row.label is None:
                wrong.append(f"row {number} has {cells[target]!r}")
        if time is not None:
            moment = _moment(cells[time])
            if moment is None and not row.reason:
                bad_times.append(f"row {number} has {cells[time]!r}")
            row.time = moment or 0.0
        rows.append(row)
    _refuse(path, target, wrong, "numbers (or empty: no measurement); leave out what is censored, such as >10")
    _refuse(path, time or "", bad_times, "dates as 2024-05-31, or numbers")
    return rows


def _refuse(path: Path, column: str, wrong: Sequence[str], expected: str) -> None:
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise StructureError(
            f"{path}: the column {column!r} must hold {expected}; {', '.join(wrong[:NAMED])}{more} (rows after the "
            "header, from 0)"
        )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _moment(text: str) -> float | None:
    """Return a date as seconds, or a number as it is."""
    value = _number(text)
    if value is not None:
        return value
    try:
        return (datetime.fromisoformat(text).replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()
    except ValueError:
        return None


def _joined(path: Path, rows: list[Row], duplicates: Literal["median", "mean", "drop"]) -> Compounds:
    groups: dict[str, _Group] = {}
    for row in rows:
        if not row.reason:
            groups.setdefault(row.compound, _Group()).rows.append(row)
    repeated = {name: group for name, group in groups.items() if len(group.rows) > 1}
    differing = {name: group for name, group in repeated.items() if group.differs}
    if duplicates == "drop":
        for name, group in differing.items():
            del groups[name]
            for row in group.rows:
                row.reason = "labels of the compound differ"
    if not groups:
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(row.reason for row in rows).items())
        raise ValueError(f"{path}: no row of {len(rows)} has a compound and a label ({counts or 'there are no rows'})")
    average = statistics.fmean if duplicates == "mean" else statistics.median
    worst = max(differing, key=lambda name: differing[name].difference, default="")
    return Compounds(
        smiles=list(groups),
        labels=np.array([average(group.labels) for group in groups.values()], dtype=np.float64),
        times=np.array([max(row.time for row in group.rows) for group in groups.values()], dtype=np.float64),
        rows=rows,
        n_repeated=len(repeated),
        n_differing=len(differing),
        largest_difference=(worst, differing[worst].difference if worst else 0.0),
    )
