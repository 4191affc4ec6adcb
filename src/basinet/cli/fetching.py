"""Data that is named and not yet there is fetched before a command begins, with progress."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basinet.terminal import progress, say

if TYPE_CHECKING:
    from basinet.data.sources.collection import PublicDataset
    from basinet.data.sources.fetch import Fetched


def ensure_fetched(paths: Iterable[str | Path]) -> None:
    """Fetch the public data sets among the paths, and say how they are cited."""
    from basinet.data.sources.fetch import is_finished, store_place
    from basinet.data.sources.names import dataset_named

    for path in paths:
        dataset = dataset_named(str(path))
        if dataset is not None and not is_finished(store_place(dataset)):
            show_fetched(dataset, fetch_shown(dataset))


def data_of(recipe: Any) -> list[Path]:
    """Return every path to data in a recipe of a run, minima to replay included."""
    given = [recipe.data]
    replay = vars(recipe).get("replay")
    if replay is not None:
        given.append(replay.data)
    return [path for one in given for path in ([one] if isinstance(one, Path) else [source.path for source in one])]


def fetch_shown(dataset: "PublicDataset", out: Path | None = None, config: Any = None) -> "Fetched":
    """Fetch a data set with a bar: of megabytes, then of molecules."""
    from basinet.data.sources.fetch import fetch

    with progress(dataset.name) as show:

        def show_bytes(done: int, total: int | None, name: str) -> None:
            show(done // 10**6, None if total is None else max(total // 10**6, 1), f"MB of {name}")

        def show_molecules(done: int, name: str) -> None:
            show(done, None, f"molecules from {name}")

        return fetch(dataset, out, config, on_bytes=show_bytes, on_molecules=show_molecules)


def show_fetched(dataset: "PublicDataset", fetched: "Fetched") -> None:
    """Say what was read and noted, and how to cite it."""
    for report in fetched.reports:
        say(str(report))
    for note in fetched.notes:
        say(note)
    say(f"{dataset.name} is in {fetched.path}; please cite {dataset.collection.citation}")
