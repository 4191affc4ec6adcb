"""Read splits that come with the data, as lists of indices or as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from basinet.data.sources.archives import extract
from basinet.data.sources.collection import DrawSplits, Files
from basinet.data.stream.splits import Split
from basinet.structures import StructureError

RMD17_LISTS = [f"index_{part}_{number:02}.csv" for number in range(1, 6) for part in ("train", "test")]
N_HELD = 50
"""Number of published training frames, the last ones, to validate on: the publications have no validation set."""


def rmd17(files: Files, names: Sequence[str]) -> Mapping[str, Split]:
    """Return the splits ``rmd17-01`` to ``rmd17-05`` of 950, 50 and 1,000 frames.

    The published lists have 1,000 frames to train on; the first 950 of them train, the last 50 validate. A split that
    names frames the molecule does not have (azobenzene lacks twelve) is left out.
    """
    lists = [_integers(path) for path in extract(files.paths[0], RMD17_LISTS)]
    splits: dict[str, Split] = {}
    for number, (train, test) in enumerate(zip(lists[::2], lists[1::2], strict=True), start=1):
        if max(int(train.max()), int(test.max())) < len(names):
            splits[f"rmd17-{number:02}"] = _held_out(train, test)
    return splits


def iso17(files: Files, names: Sequence[str]) -> Mapping[str, Split]:
    """Return ``iso17-within`` (other frames of known isomers) and ``iso17-other`` (other isomers)."""
    lists = [_integers(path) for path in extract(files.paths[0], ("train_ids.txt", "validation_ids.txt"))]
    train, validation = (_rows(names, [f"reference.db:{identity}" for identity in ids.tolist()]) for ids in lists)
    return {
        f"iso17-{what}": Split(train=train, validation=validation, test=_of_file(names, f"test_{what}.db"))
        for what in ("within", "other")
    }


def lba(identity: str) -> DrawSplits:
    """Return a function that finds the split by sequence identity: the databases are its parts."""

    def draw(files: Files, names: Sequence[str]) -> Mapping[str, Split]:
        parts = {part: _of_file(names, part) for part in ("train", "validation", "test")}
        return {f"lba-{identity}": Split(**parts)}

    return draw


def files_as_splits(splits: Mapping[str, tuple[str, str]]) -> DrawSplits:
    """Return a function that finds splits whose training and test sets are files, by name."""

    def draw(files: Files, names: Sequence[str]) -> Mapping[str, Split]:
        return {
            name: _held_out(_of_file(names, train), _of_file(names, test)) for name, (train, test) in splits.items()
        }

    return draw


def _held_out(train: Int64[np.ndarray, " n"], test: Int64[np.ndarray, " m"]) -> Split:
    n_held = min(N_HELD, len(train) - 1)
    return Split(train=train[: len(train) - n_held], validation=train[len(train) - n_held :], test=test)


def _of_file(names: Sequence[str], file: str) -> Int64[np.ndarray, " n"]:
    found = np.array([i for i, name in enumerate(names) if name.startswith(f"{file}:")], dtype=np.int64)
    if len(found) == 0:
        raise StructureError(f"no molecules of {file}, which a published split needs")
    return found


def _rows(names: Sequence[str], wanted: Sequence[str]) -> Int64[np.ndarray, " n"]:
    rows = {name: i for i, name in enumerate(names)}
    if missing := [name for name in wanted if name not in rows]:
        raise StructureError(f"{len(missing)} molecules of a published split are not there, the first {missing[0]}")
    return np.array([rows[name] for name in wanted], dtype=np.int64)


def _integers(path: Path) -> Int64[np.ndarray, " n"]:
    """Return the whole numbers of a text file, which may be written with a decimal point."""
    try:
        values = np.loadtxt(path, delimiter=",", ndmin=1).reshape(-1)
    except ValueError as error:
        raise StructureError(f"{path}: not a list of numbers ({error})") from None
    whole = values.astype(np.int64)
    if len(whole) == 0 or (whole != values).any() or (whole < 0).any():
        raise StructureError(f"{path}: expected whole numbers, 0 or more")
    return whole
