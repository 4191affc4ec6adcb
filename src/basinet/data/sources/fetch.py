"""Build the store of a public data set: fetch, verify, read, convert and check its files."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from basinet.config import dump_settings
from basinet.data.doctor.check import require_consistent
from basinet.data.files.build import OnProgress, write_store
from basinet.data.files.report import ReadReport
from basinet.data.sources.cache import DIRECTORY_VARIABLE, cache_directory, verify
from basinet.data.sources.collection import FetchConfig, Files, PublicDataset, RemoteFile
from basinet.data.sources.download import DownloadError, OnBytes, fetch_file
from basinet.data.store.manifest import MANIFEST_FILE
from basinet.data.store.shards import read_manifest
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split

SPLITS_DIRECTORY = "splits"
"""Directory in a store of the published splits that came with its files, ``NAME.json``."""


class Fetched(NamedTuple):
    """A store of a public data set."""

    path: Path
    store: MoleculeStore
    reports: tuple[ReadReport, ...]
    """Empty if the store was there already."""
    notes: tuple[str, ...]
    """Lines for the user."""


def fetch(
    dataset: PublicDataset,
    out: Path | None = None,
    config: FetchConfig | None = None,
    *,
    on_bytes: OnBytes | None = None,
    on_molecules: OnProgress | None = None,
) -> Fetched:
    """Return the store of a data set, downloaded and built if it is not in the cache.

    Of several processes that fetch the same at once, one works and the others wait.

    Args:
        dataset: Data set to fetch.
        out: Directory of the store; ``None``: in the cache, which holds one store for the default options.
        config: Options; others than the defaults need ``out``.
        on_bytes: Callback of downloads.
        on_molecules: Callback of the writer.

    Raises:
        DownloadError: a file is missing and could not be downloaded; the message says what to do.
        ValueError: a file is not the published one, cannot be read, or contradicts itself.
    """
    config = config or FetchConfig()
    if out is None and config != FetchConfig():
        raise ValueError(f"a store of {dataset.name} with other settings needs a place: give the path to write it to")
    directory = cache_directory() / dataset.collection.name
    path = store_place(dataset) if out is None else out
    if out is None and is_finished(path):
        return Fetched(path, MoleculeStore.open(path), (), ())
    with _alone(directory):
        if out is None and is_finished(path):  # another process was faster
            return Fetched(path, MoleculeStore.open(path), (), ())
        paths = _fetch_files(dataset.contents.files, directory, on_bytes)
        return _build(dataset, Files(paths, config), path, on_molecules)


def store_place(dataset: PublicDataset) -> Path:
    """Return the path of the store of a data set in the cache."""
    return cache_directory() / dataset.collection.name / "stores" / (dataset.key or dataset.collection.name)


def is_finished(path: Path) -> bool:
    """Return True if there is a finished store."""
    return (path / MANIFEST_FILE).exists() and read_manifest(path).complete


def saved_splits(path: Path) -> dict[str, Path]:
    """Return the published splits that came with the data of a store, by name."""
    return {file.stem: file for file in sorted((path / SPLITS_DIRECTORY).glob("*.json"))}


def _fetch_files(files: Sequence[RemoteFile], directory: Path, on_bytes: OnBytes | None) -> tuple[Path, ...]:
    """Return all files, or raise one error about all that cannot be downloaded."""
    paths: list[Path] = []
    failures: list[str] = []
    for file in files:
        try:
            paths.append(fetch_file(file, directory, on_bytes))
        except DownloadError as error:
            failures.append(str(error))
    if failures:
        raise DownloadError("\n".join([*failures, f"another directory for all files: {DIRECTORY_VARIABLE}=..."]))
    return tuple(paths)


def _build(dataset: PublicDataset, files: Files, path: Path, on_molecules: OnProgress | None) -> Fetched:
    contents = dataset.contents
    opened = contents.read(files)
    pairs = zip(contents.files, files.paths, strict=True)
    hashes = {file.name: verify(found, file, "the cache") for file, found in pairs}
    path.parent.mkdir(parents=True, exist_ok=True)
    store, reports = write_store(
        opened,
        path,
        level_of_theory=contents.level_of_theory,
        source=f"{dataset.name} ({dataset.collection.citation})",
        settings={"source": dataset.name, "sha256": hashes, **dump_settings(files.config)},
        units=contents.units,
        limit=files.config.limit,
        on_progress=on_molecules,
    )
    try:
        require_consistent(store, dataset.name)
        splits: Mapping[str, Split] = {}
        if files.config.limit is None and contents.splits is not None:
            splits = contents.splits(files, _names(store))
        _save_splits(splits, path)
    except ValueError:
        shutil.rmtree(path)
        raise
    return Fetched(path, store, reports, tuple(_notes(dataset, store, splits, files.config.limit is None)))


def _save_splits(splits: Mapping[str, Split], path: Path) -> None:
    (path / SPLITS_DIRECTORY).mkdir(exist_ok=True)
    for name, split in splits.items():
        split.save(path / SPLITS_DIRECTORY / f"{name}.json")


def _notes(dataset: PublicDataset, store: MoleculeStore, splits: Mapping[str, Split], is_whole: bool) -> Iterator[str]:
    expected = dataset.contents.n_molecules
    if is_whole and expected is not None and len(store) != expected:
        yield (
            f"warning: {len(store):,} molecules, but {expected:,} were published; published splits are of all of them"
        )
    for name, split in splits.items():
        sizes = " / ".join(f"{len(part):,}" for part in (split.train, split.validation, split.test))
        yield f"split={name}: {sizes}"


def _names(store: MoleculeStore) -> list[str]:
    names = [name for shard in store.shards for name in shard.names.to_list()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two molecules are called {twice[0]}, so published splits cannot be found")
    return names


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        yield
