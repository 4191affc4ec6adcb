"""Names of public data sets where a path is expected: ``qm9:``, ``rmd17:aspirin``."""

import os
import re
from pathlib import Path

from basinet.data.sources.catalogue import SOURCES
from basinet.data.sources.fetch import fetch, is_finished, store_place
from basinet.data.sources.source import Dataset

_NAME = re.compile(r"(?P<source>[a-z0-9][a-z0-9_-]+):(?P<part>[\w.-]*)")


def dataset_named(text: str) -> Dataset | None:
    """Return the data set that a text names; ``None`` if it is a path: it has no colon, or a slash.

    Raises:
        ValueError: it has the form of a name, but there is no such source, or no such part of it.
    """
    match = _NAME.fullmatch(text)
    if match is None or (match["source"] not in SOURCES and Path(text).exists()):
        return None
    if match["source"] not in SOURCES:
        raise ValueError(f"{text}: no such file, and no source is called {match['source']}; {_known()}")
    source = SOURCES[match["source"]]
    if match["part"] not in source.parts:
        names = ", ".join(Dataset(source, key).name for key in source.parts)
        raise ValueError(f"the source {source.name} has no part {match['part']!r}; expected one of {names}")
    return Dataset(source, match["part"])


def parse_name(text: str) -> Dataset:
    """Return the data set of a name; the colon may be left out where nothing follows it.

    Raises:
        ValueError: there is no such source, or no such part of it.
    """
    found = dataset_named(text if ":" in text else f"{text}:")
    if found is None:
        raise ValueError(f"{text!r} is no name of a source; {_known()}")
    return found


def locate(path: str | os.PathLike[str]) -> Path:
    """Return a path as it is, and for the name of a public data set (``qm9:``) the store of it in the cache.

    A data set that is not there is downloaded and built first; ``basinet data fetch`` does the same and shows progress.

    Raises:
        ValueError: there is no data set of that name.
        DownloadError: it is not there and cannot be downloaded; the message says what to do.
    """
    dataset = dataset_named(os.fspath(path))
    if dataset is None:
        return Path(path)
    place = store_place(dataset)
    return place if is_finished(place) else fetch(dataset).path


def _known() -> str:
    return f"sources are {', '.join(SOURCES)} (basinet data sources)"
