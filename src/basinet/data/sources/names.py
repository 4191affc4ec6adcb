"""Resolve names of public data sets, which stand for a path: ``qm9:``, ``rmd17:aspirin``."""

import os
import re
from pathlib import Path

from basinet.data.sources.catalogue import COLLECTIONS
from basinet.data.sources.collection import PublicDataset
from basinet.data.sources.fetch import fetch, is_finished, store_place

_NAME = re.compile(r"(?P<collection>[a-z0-9][a-z0-9_-]+):(?P<key>[\w.-]*)")


def dataset_named(text: str) -> PublicDataset | None:
    """Return the data set that a text names; ``None`` if it is a path: it has no colon, or a slash.

    Raises:
        ValueError: it has the form of a name, but there is no such data set.
    """
    match = _NAME.fullmatch(text)
    if match is None or (match["collection"] not in COLLECTIONS and Path(text).exists()):
        return None
    if match["collection"] not in COLLECTIONS:
        raise ValueError(f"{text}: no such file, and no public data set is called {match['collection']}; {_known()}")
    collection = COLLECTIONS[match["collection"]]
    if match["key"] not in collection.contents:
        names = ", ".join(PublicDataset(collection, key).name for key in collection.contents)
        raise ValueError(f"{collection.name} has no data set {match['key']!r}; expected one of {names}")
    return PublicDataset(collection, match["key"])


def parse_name(text: str) -> PublicDataset:
    """Return the data set of a name; the colon may be left out where nothing follows it.

    Raises:
        ValueError: there is no such data set.
    """
    found = dataset_named(text if ":" in text else f"{text}:")
    if found is None:
        raise ValueError(f"{text!r} is not the name of a public data set; {_known()}")
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
    return f"known are {', '.join(COLLECTIONS)} (basinet data sources)"
