"""Join the parts of one generation, made on many machines, into one store."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from basinet.data.generation.parts import SHARD, Part, join_lists, only_writer
from basinet.data.store.manifest import Manifest, ShardEntry
from basinet.data.store.shards import read_manifest
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter

MERGED = "merged_shards"
"""Setting of a merged store: its number of parts."""
NAMED = 10
"""Missing parts named in an error."""


class _Input(NamedTuple):
    path: Path
    part: Part
    manifest: Manifest


def merge(stores: Sequence[Path], out: Path, on_progress: Callable[[int, int], None] | None = None) -> MoleculeStore:
    """Join all parts of one generation (``data generate --shard i/n``) into one store, in the order of the list.

    The files are copied and their hashes compared; memory does not grow with the data. The same call resumes an
    interrupted merge. The molecules are those of the undivided generation, bit for bit; the fingerprint differs,
    because the files are cut where the parts were. The order of ``stores`` does not matter.

    Args:
        stores: The parts, in any order.
        out: Directory of the store to make.
        on_progress: Called with the number of shards copied and of all.

    Raises:
        ValueError: a part is missing, duplicate, unfinished, of another generation, or damaged; only damage is found
            after copying has begun.
        FileExistsError: ``out`` is a finished store or something else.
        RunError: another process is writing to ``out``.
    """
    inputs = sorted(map(_open, stores), key=lambda i: i.part.number)
    _require_one_generation(inputs)
    if any(out.resolve() == i.path.resolve() for i in inputs):
        raise ValueError(f"{out} is one of the shards; choose another path for the merged store")
    first = inputs[0].manifest
    shards = [(i.path, entry) for i in inputs for entry in i.manifest.shards]
    with only_writer(out):
        writer = StoreWriter.open(
            out,
            level_of_theory=first.level_of_theory,
            source=first.source,
            settings={**_settings(first), MERGED: len(inputs)},
        )
        _require_same_begin(writer.manifest.shards, [entry for _, entry in shards], out)
        for number, (path, entry) in enumerate(shards[writer.n_shards :], start=writer.n_shards):
            writer.copy_shard(path, entry)
            if on_progress is not None:
                on_progress(number + 1, len(shards))
        join_lists((i.path for i in inputs), out)
        return writer.finish_unjoined()


def _open(path: Path) -> _Input:
    manifest = read_manifest(path)
    if SHARD not in manifest.settings:
        raise ValueError(
            f"{path} is no shard of a generation (data generate OUT --shard i/n); to join other stores, type: "
            "basinet data build IN... OUT"
        )
    part = Part.parse(manifest.settings[SHARD])
    if not manifest.complete:
        raise ValueError(f"{path}, shard {part}, is unfinished; run the command that was making it again, it resumes")
    return _Input(path, part, manifest)


def _require_one_generation(inputs: Sequence[_Input]) -> None:
    """Check that the stores are the parts of one generation, each once."""
    first = inputs[0]
    for other in inputs[1:]:
        if differences := _differences(_origin(first.manifest), _origin(other.manifest)):
            raise ValueError(
                f"{first.path} and {other.path} are not shards of one generation: {'; '.join(differences)}"
            )
    paths: dict[int, Path] = {}
    for path, part, _ in inputs:
        if part.of != first.part.of:
            raise ValueError(
                f"{first.path} is shard {first.part} and {path} is shard {part}; expected shards i/n of one n"
            )
        if part.number in paths:
            raise ValueError(f"shard {part} is given twice: {paths[part.number]} and {path}; leave one of them out")
        paths[part.number] = path
    if missing := [str(Part(i, first.part.of)) for i in range(1, first.part.of + 1) if i not in paths]:
        named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise ValueError(f"missing: shard {named}; make them with data generate --shard, or add them to the command")


def _settings(manifest: Manifest) -> dict[str, Any]:
    return {key: value for key, value in manifest.settings.items() if key != SHARD}


def _origin(manifest: Manifest) -> dict[str, Any]:
    return {
        "level of theory": manifest.level_of_theory,
        "source": manifest.source,
        "units": manifest.units,
        **_settings(manifest),
    }


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return [f"{key} is {one.get(key, '<absent>')!r} and {other.get(key, '<absent>')!r}" for key in keys]


def _require_same_begin(there: Sequence[ShardEntry], wanted: Sequence[ShardEntry], out: Path) -> None:
    if [entry.files for entry in there] != [entry.files for entry in wanted[: len(there)]]:
        raise ValueError(f"{out} was begun from other shards; delete it, or choose another path")
