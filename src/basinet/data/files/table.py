"""Tables of text, row by row: CSV, and parquet where pyarrow is installed."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from basinet.structures import StructureError

TABLE_SUFFIXES = (".csv", ".parquet")
ROWS_AT_ONCE = 1024
"""Of a parquet file."""


def is_table(path: Path) -> bool:
    """Return whether a file is a table by its suffix."""
    return path.suffix.lower() in TABLE_SUFFIXES


def column_names(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        FileNotFoundError: there is no such file.
        StructureError: it is no table, or a name occurs twice.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not is_table(path):
        raise StructureError(f"{path}: expected a table, {' or '.join(TABLE_SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        names = _parquet(path).schema_arrow.names
    else:
        names = next((line for line in _csv_lines(path)), [])
    names = [name.strip() for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StructureError(f"{path}: the column {twice[0]!r} is there {names.count(twice[0])} times; rename one")
    if not names:
        raise StructureError(f"{path}: the file is empty; the first line must name the columns")
    return names


def require_columns(path: Path, wanted: Sequence[str], option: str = "") -> list[str]:
    """Return all names of columns, the wanted ones being among them.

    Args:
        path: the table.
        wanted: names as they stand in the table.
        option: what to type to name another one, for the message.

    Raises:
        StructureError: one is not there; the message lists those that are.
    """
    names = column_names(path)
    for name in wanted:
        if name not in names:
            hint = "; is the file separated by ; or tabs? It must be by commas" if len(names) == 1 else ""
            there = ", ".join(names)[:400]
            typed = f"; name the right one with {option}" if option else ""
            raise StructureError(f"{path}: no column {name!r}; the columns are: {there}{typed}{hint}")
    return names


def smiles_column(path: Path, wanted: str | None) -> str:
    """Return the name of the column of SMILES: the wanted one, or the one called smiles in any case."""
    if wanted is not None:
        require_columns(path, [wanted], "smiles=")
        return wanted
    found = [name for name in column_names(path) if name.lower() == "smiles"]
    if len(found) != 1:
        require_columns(path, ["smiles"], "smiles=")
    return found[0]


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows as text by column, an empty cell as ``""``; blank lines are no rows.

    Raises:
        StructureError: the table is damaged.
    """
    names = column_names(path)
    if path.suffix.lower() == ".parquet":
        for batch in _parquet(path).iter_batches(batch_size=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield {name: _text(row[key]) for name, key in zip(names, row, strict=True)}
        return
    for number, cells in enumerate(_csv_lines(path)):
        if number == 0:
            continue
        if len(cells) != len(names):
            raise StructureError(
                f"{path.name}:{number - 1}: has {len(cells)} cells, expected {len(names)} as the header; a comma "
                "inside a cell needs quotes"
            )
        yield {name: cell.strip() for name, cell in zip(names, cells, strict=True)}


def _csv_lines(path: Path) -> Iterator[list[str]]:
    row = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for cells in csv.reader(file, strict=True):
                if cells:
                    yield cells
                    row += 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise StructureError(f"{path.name}:{row - 1}: cannot be read as CSV ({error})") from None


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError(f'{path}: parquet needs pyarrow: pip install "basinet[parquet]"') from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise StructureError(f"{path} cannot be read as parquet ({error})") from None


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
