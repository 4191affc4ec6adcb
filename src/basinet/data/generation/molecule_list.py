"""Read lists of SMILES of any length and select the molecules to treat.

A list of a million molecules is never in memory as text or objects: entries are known by their place in the file.
"""

import io
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, sha256
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from basinet.data.chemistry.compounds import canonical, compound
from basinet.data.chemistry.conformers import GenerationError
from basinet.data.workers import map_in_order

BLOCK = 2**18
"""Size of the blocks that a process reads."""
LONGEST_LINE = 2**16
"""Largest length of a line, bytes."""
LEFT_OUT = ("excluded", "listed before")
"""Reasons to leave out an entry."""
_EXCLUDED, _BEFORE, _CHOSEN = 0, 1, 2


class Entry(NamedTuple):
    """One molecule of a list."""

    place: int
    """Number of the entry among all of the list, from 0."""
    smiles: str


@dataclass(frozen=True, kw_only=True)
class MoleculeList:
    """The selected entries of a list, and those left out."""

    open: Callable[[], BinaryIO]
    """Opens the list."""
    places: Int64[np.ndarray, " n_chosen"]
    """Places of the entries to treat."""
    starts: Int64[np.ndarray, " n_chosen"]
    """Offsets of their lines, bytes."""
    left_out_places: Int64[np.ndarray, " n_left_out"]
    left_out_starts: Int64[np.ndarray, " n_left_out"]
    left_out_reasons: UInt8[np.ndarray, " n_left_out"]
    """Index in ``LEFT_OUT``."""
    sha256: str
    """Hash of the canonical molecules to treat and their places."""

    def __len__(self) -> int:
        return len(self.places)

    def first_place(self, index: int) -> int:
        """Return the first place of the entries that belong to the molecules from ``index`` on."""
        if index == 0:
            return 0
        return int(self.places[index]) if index < len(self) else np.iinfo(np.int64).max

    def entries(self, first: int, last: int) -> Iterator[Entry]:
        """Yield the molecules to treat from ``first`` to before ``last``, read one by one."""
        return self._read(self.places[first:last], self.starts[first:last])

    def left_out(self, first: int, last: int) -> Iterator[tuple[Entry, str]]:
        """Yield the entries left out between these molecules, with their reasons."""
        span = slice(*np.searchsorted(self.left_out_places, [self.first_place(first), self.first_place(last)]))
        entries = self._read(self.left_out_places[span], self.left_out_starts[span])
        for entry, reason in zip(entries, self.left_out_reasons[span], strict=True):
            yield entry, LEFT_OUT[reason]

    def _read(self, places: Int64[np.ndarray, " n"], starts: Int64[np.ndarray, " n"]) -> Iterator[Entry]:
        with self.open() as stream:
            for place, start in zip(places, starts, strict=True):
                stream.seek(int(start))
                lines = stream.readline(LONGEST_LINE).splitlines()
                if not lines:
                    raise ValueError("the list of molecules was truncated while it was read; run the command again")
                yield Entry(int(place), _first_word(lines[0]))


def choose(path: Path | None, excluded: Collection[str], n_molecules: int | None, processes: int) -> MoleculeList:
    """Read a list once and return the molecules to treat.

    Excluded compounds and repeated molecules (by canonical SMILES) are left out. An entry that does not parse is kept,
    so that it is counted as a failure.

    Args:
        path: File with one SMILES per line; ``None``: the packaged list.
        excluded: Compounds, from :func:`basinet.data.chemistry.compounds.compounds`.
        n_molecules: Number of molecules, from the start; ``None``: all.
        processes: Processes that canonicalise lists above 256 kB.

    Raises:
        ValueError: the list has no entries, or none to treat, or is no text.
    """
    source: Callable[[], BinaryIO] = _packaged if path is None else partial(open, path, "rb")
    blocks: list[_Block] = []
    wanted = n_molecules
    with source() as stream, closing(_examined(stream, str(path), frozenset(excluded), processes)) as examined:
        for block in examined:
            blocks.append(block)
            if n_molecules is not None and wanted is not None and sum(b.n_kept for b in blocks) >= wanted:
                missing = n_molecules - int((_verdicts(blocks) == _CHOSEN).sum())
                if missing <= 0:
                    break
                wanted = sum(b.n_kept for b in blocks) + missing
    verdicts = _verdicts(blocks)
    if not len(verdicts):
        raise ValueError(f"{path}: no molecules, expected one SMILES per line")
    chosen = np.flatnonzero(verdicts == _CHOSEN)[:n_molecules]
    end = len(verdicts) if n_molecules is None or len(chosen) < n_molecules else int(chosen[-1]) + 1
    others = np.flatnonzero(verdicts[:end] != _CHOSEN)
    if not len(chosen):
        counts = {reason: int((verdicts == code).sum()) for code, reason in enumerate(LEFT_OUT)}
        raise ValueError(
            f"no molecules to treat: { ({k: n for k, n in counts.items() if n}) }; expected a longer list, or fewer "
            "exclusions"
        )
    starts = np.concatenate([block.starts for block in blocks])
    hashes = np.concatenate([block.hashes for block in blocks])[chosen]
    return MoleculeList(
        open=source,
        places=chosen,
        starts=starts[chosen],
        left_out_places=others,
        left_out_starts=starts[others],
        left_out_reasons=verdicts[others],
        sha256=sha256(chosen.tobytes() + hashes.tobytes()).hexdigest(),
    )


class _Text(NamedTuple):
    start: int
    """Offset of its first line in the list."""
    text: bytes
    excluded: frozenset[str]


class _Block(NamedTuple):
    starts: Int64[np.ndarray, " n_entries"]
    hashes: UInt64[np.ndarray, "n_entries 2"]
    """Hashes of the canonical SMILES, 128 bits."""
    is_excluded: np.ndarray

    @property
    def n_kept(self) -> int:
        return len(self.starts) - int(self.is_excluded.sum())


def _verdicts(blocks: Iterable[_Block]) -> UInt8[np.ndarray, " n_entries"]:
    """Return, for each entry, that it is chosen or the reason why not."""
    hashes = np.concatenate([np.zeros((0, 2), np.uint64), *(block.hashes for block in blocks)])
    excluded = np.concatenate([np.zeros(0, bool), *(block.is_excluded for block in blocks)])
    order = np.lexsort(hashes.T)  # stable: the first of equal ones comes first
    is_first = np.ones(len(hashes), dtype=bool)
    is_first[order[1:]] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    return np.where(excluded, _EXCLUDED, np.where(is_first, _CHOSEN, _BEFORE)).astype(np.uint8)


def _examined(stream: BinaryIO, name: str, excluded: frozenset[str], processes: int) -> Generator[_Block, None, None]:
    """Canonicalise a list block by block, in other processes if it is long."""
    texts = _texts(stream, name, excluded)
    first = next(texts, None)
    if first is None:
        return
    yield _examine(first)
    if (second := next(texts, None)) is None:
        return
    yield _examine(second)
    with closing(map_in_order(_examine, texts, processes)) as blocks:
        yield from blocks


def _texts(stream: BinaryIO, name: str, excluded: frozenset[str]) -> Iterator[_Text]:
    start = 0
    while text := stream.read(BLOCK):
        text += stream.readline(LONGEST_LINE)
        if len(text) == BLOCK + LONGEST_LINE and not text.endswith(b"\n"):
            raise ValueError(f"{name}: a line of more than {LONGEST_LINE} bytes; expected one SMILES per line")
        yield _Text(start, text, excluded)
        start += len(text)


def _examine(block: _Text) -> _Block:
    """Canonicalise the entries of a block."""
    starts: list[int] = []
    digests: list[bytes] = []
    excluded: list[bool] = []
    start = block.start
    for line in block.text.splitlines(keepends=True):
        smiles = _first_word(line)
        if smiles and not smiles.startswith("#"):
            try:
                form = canonical(smiles)
                is_excluded = bool(block.excluded) and compound(smiles) in block.excluded
            except GenerationError:
                form, is_excluded = smiles, False  # labelling counts it as a failure
            starts.append(start)
            digests.append(blake2b(form.encode(), digest_size=16).digest())
            excluded.append(is_excluded)
        start += len(line)
    hashes = np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
    return _Block(np.array(starts, dtype=np.int64), hashes, np.array(excluded, dtype=bool))


def _first_word(line: bytes) -> str:
    words = line.decode("utf-8-sig", errors="replace").split(maxsplit=1)
    return words[0] if words else ""


def _packaged() -> BinaryIO:
    return io.BytesIO(files("basinet.data.chemistry").joinpath("molecules.smi").read_bytes())
