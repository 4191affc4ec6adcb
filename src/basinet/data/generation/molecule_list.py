"""Lists of SMILES of any length: which entries are to be treated, known by where they are in the file.

A list of a million molecules is never in memory as text or objects: what stays is 8 bytes for each molecule to treat
and 9 for each entry that is left out.
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

from basinet.data.chemistry.conformers import GenerationError
from basinet.data.chemistry.molecules import canonical, compound
from basinet.data.workers import map_in_order

BLOCK = 2**18
"""Bytes of a list that a process reads at once."""
LONGEST_LINE = 2**16
"""Bytes; a line that is longer is no SMILES."""
LEFT_OUT = ("excluded", "listed before")
"""Why an entry is left out before anything is computed."""
_EXCLUDED, _BEFORE, _CHOSEN = 0, 1, 2


class Entry(NamedTuple):
    """One molecule of a list."""

    place: int
    """Counted from 0 over all entries, whether they are treated or not."""
    smiles: str


@dataclass(frozen=True, kw_only=True)
class MoleculeList:
    """The entries of a list, apart from those that are left out."""

    open: Callable[[], BinaryIO]
    """Opens the list."""
    places: Int64[np.ndarray, " n_chosen"]
    """Of the entries to treat."""
    starts: Int64[np.ndarray, " n_chosen"]
    """Where their lines begin, in bytes."""
    left_out_places: Int64[np.ndarray, " n_left_out"]
    left_out_starts: Int64[np.ndarray, " n_left_out"]
    left_out_reasons: UInt8[np.ndarray, " n_left_out"]
    """Index in ``LEFT_OUT``."""
    sha256: str
    """Of the molecules to treat and their places: equal lists have equal hashes, however the SMILES are written."""

    def __len__(self) -> int:
        return len(self.places)

    def first_place(self, index: int) -> int:
        """Return where the entries begin that belong to the molecules from ``index`` on."""
        if index == 0:
            return 0
        return int(self.places[index]) if index < len(self) else np.iinfo(np.int64).max

    def entries(self, first: int, last: int) -> Iterator[Entry]:
        """Yield the molecules to treat from the ``first`` to before the ``last``, read from the file one by one."""
        return self._read(self.places[first:last], self.starts[first:last])

    def left_out(self, first: int, last: int) -> Iterator[tuple[Entry, str]]:
        """Yield what is left out between these molecules, with the reason."""
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
                    raise ValueError("the list of molecules was cut while it was read; run the same command again")
                yield Entry(int(place), _first_word(lines[0]))


def choose(path: Path | None, excluded: Collection[str], n_molecules: int | None, processes: int) -> MoleculeList:
    """Read through a list once and return the molecules to treat.

    Left out are excluded compounds and molecules that are listed before, compared by canonical SMILES. An entry that
    does not parse is treated, so that it is counted.

    Args:
        path: One SMILES per line; without one, the packaged list.
        excluded: Compounds, from :func:`basinet.data.chemistry.molecules.compounds`.
        n_molecules: The first so many; all without a number.
        processes: That canonicalise, for lists above 256 kB.

    Raises:
        ValueError: the list has no entries, or none that is to be treated, or is no text.
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
    """Of its first line, in the list."""
    text: bytes
    excluded: frozenset[str]


class _Block(NamedTuple):
    starts: Int64[np.ndarray, " n_entries"]
    hashes: UInt64[np.ndarray, "n_entries 2"]
    """Of the canonical SMILES, 128 bits."""
    is_excluded: np.ndarray

    @property
    def n_kept(self) -> int:
        return len(self.starts) - int(self.is_excluded.sum())


def _verdicts(blocks: Iterable[_Block]) -> UInt8[np.ndarray, " n_entries"]:
    """Return, entry by entry, whether it is chosen or why not."""
    hashes = np.concatenate([np.zeros((0, 2), np.uint64), *(block.hashes for block in blocks)])
    excluded = np.concatenate([np.zeros(0, bool), *(block.is_excluded for block in blocks)])
    order = np.lexsort(hashes.T)  # stable: of equal ones, the first of the list comes first
    is_first = np.ones(len(hashes), dtype=bool)
    is_first[order[1:]] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    return np.where(excluded, _EXCLUDED, np.where(is_first, _CHOSEN, _BEFORE)).astype(np.uint8)


def _examined(stream: BinaryIO, name: str, excluded: frozenset[str], processes: int) -> Generator[_Block, None, None]:
    """Read a list block by block, in other processes if it is long."""
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
                form, is_excluded = smiles, False  # who labels it will count it
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
