"""Read tables row by row: CSV, and parquet where pyarrow is installed."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from basinet.data.files.report import damaged_file
from basinet.errors import optional_module
from basinet.structures import StructureError

TABLE_SUFFIXES = (".csv", ".parquet")
ROWS_AT_ONCE = 1024
"""Rows of a parquet file to read at once."""
BUFFER = 2**20
"""Bytes of a column of a parquet file to read at once; otherwise a whole group of rows is read."""


def is_table(path: Path) -> bool:
    """Return whether a file is a table by its suffix."""
    return path.suffix.lower() in TABLE_SUFFIXES


def column_names(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        FileNotFoundError: there is no such file.
        StructureError: it is not a table, or a name occurs twice.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not is_table(path):
        raise StructureError(f"{path}: expected a table, {' or '.join(TABLE_SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        with open_parquet(path) as file:
            names = file.schema_arrow.names
    else:
        names = next(csv_lines(path), [])
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
    """Yield the rows as text by column, an empty cell as ``""``; blank lines are skipped.

    Raises:
        StructureError: the table is damaged.
    """
    names = column_names(path)
    if path.suffix.lower() == ".parquet":
        with open_parquet(path) as file:
            for row in parquet_rows(file):
                yield {name: _text(row[key]) for name, key in zip(names, row, strict=True)}
        return
    for cells in islice(csv_lines(path), 1, None):
        yield {name: cell.strip() for name, cell in zip(names, cells, strict=True)}


def csv_lines(path: Path) -> Iterator[list[str]]:
    """Yield the cells of the header of a CSV file, and of each row; blank lines are skipped.

    Raises:
        StructureError: the file is not text, or a row is longer or shorter than the header.
    """
    row, n_columns = -1, 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row, cells in enumerate(filter(None, csv.reader(file, strict=True)), start=-1):
                n_columns = n_columns or len(cells)
                if len(cells) != n_columns:
                    raise StructureError(
                        f"{path.name}:{row}: has {len(cells)} cells, expected {n_columns} as the header; a comma "
                        "inside a cell needs quotes"
                    )
                yield cells
    except (csv.Error, UnicodeDecodeError) as error:
        raise StructureError(f"{path.name}:{row + 1}: cannot be read as CSV ({error})") from None


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a parquet file.

    Raises:
        StructureError: it is damaged; also for what the body of the ``with`` meets in it.
        ImportError: pyarrow is not installed.
    """
    parquet = optional_module("pyarrow.parquet", "parquet", "reading parquet files")
    options = {"buffer_size": BUFFER, "pre_buffer": False, "page_checksum_verification": True}
    damaged = damaged_file(f"{path}: cannot be read as parquet", "; is it truncated?")
    with damaged, parquet.ParquetFile(path, **options) as file:
        yield file


def parquet_rows(file: Any, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of an open parquet file, with all or some of its columns."""
    n_rows = 0
    names = None if columns is None else list(dict.fromkeys(columns))
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=names, use_threads=False):
        rows = batch.to_pylist()
        n_rows += len(rows)
        yield from rows
    if n_rows != file.metadata.num_rows:
        raise ValueError(f"it gave {n_rows} of its {file.metadata.num_rows} rows")


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()
