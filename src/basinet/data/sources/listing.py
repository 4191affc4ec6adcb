"""Tabulate the public data sets, for the command line and the documentation."""

from collections.abc import Iterator

from basinet.data.sources.catalogue import COLLECTIONS
from basinet.data.sources.collection import Collection, PublicDataset

HEADER = ("name", "what", "level of theory", "units of the files", "download", "splits", "licence", "cite")


def rows() -> Iterator[tuple[str, ...]]:
    """Yield a row of texts for each source, under :data:`HEADER`."""
    for collection in COLLECTIONS.values():
        levels = dict.fromkeys(contents.level_of_theory for contents in collection.contents.values())
        yield (
            ", ".join(PublicDataset(collection, key).name for key in collection.contents),
            collection.what,
            ", ".join(levels),
            collection.units,
            _size(collection),
            ", ".join(collection.splits) or "none",
            collection.licence,
            collection.citation,
        )


def markdown() -> str:
    """Return the table of the documentation."""
    lines = [HEADER, tuple("---" for _ in HEADER), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _size(collection: Collection) -> str:
    """Return the sizes of the parts where they are known."""
    sizes = {
        sum(file.n_bytes for file in contents.files if file.n_bytes is not None)
        if all(file.n_bytes is not None for file in contents.files)
        else None
        for contents in collection.contents.values()
    }
    known = sorted(size for size in sizes if size is not None)
    return ", ".join(f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" for size in known) or "not known"
