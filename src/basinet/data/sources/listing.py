"""The list of public data sets, for the command line and the documentation."""

from collections.abc import Iterator

from basinet.data.sources.catalogue import SOURCES
from basinet.data.sources.source import Dataset, Source

HEADER = ("name", "what", "level of theory", "units of the files", "download", "splits", "licence", "cite")


def rows() -> Iterator[tuple[str, ...]]:
    """Yield a row of texts for each source, under :data:`HEADER`."""
    for source in SOURCES.values():
        levels = dict.fromkeys(part.level_of_theory for part in source.parts.values())
        yield (
            ", ".join(Dataset(source, key).name for key in source.parts),
            source.what,
            ", ".join(levels),
            source.units,
            _size(source),
            ", ".join(source.splits) or "none",
            source.licence,
            source.citation,
        )


def markdown() -> str:
    """Return the table of the documentation."""
    lines = [HEADER, tuple("---" for _ in HEADER), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _size(source: Source) -> str:
    """Return the sizes of the parts where they are known."""
    sizes = {
        sum(file.n_bytes for file in part.files if file.n_bytes is not None)
        if all(file.n_bytes is not None for file in part.files)
        else None
        for part in source.parts.values()
    }
    known = sorted(size for size in sizes if size is not None)
    return ", ".join(f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" for size in known) or "not known"
