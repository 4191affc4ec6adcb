"""Damage files at random and say what a reader makes of them."""

import multiprocessing
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from basinet.data.readers import Reading, open_molecules
from basinet.data.sources.archives import walk
from basinet.structures import Molecule
from source_files import write_tar, write_zip

Read = Callable[[Path], tuple[list[Molecule], int]]
"""Returns the molecules of a file, and how many records it says that it left out."""

HUGE = (2**31 - 1, 2**40, 2**62, -1)
ROOM = 2**30
"""Bytes of address space that reading a damaged file of a few kilobytes may take, beside what the process has."""
TEXTS = (b"nan", b"inf", b"1e999", b"999999999999", b"-1", b"\x00", b'"', b"\xff\xfe")


def damage(content: bytes, generator: np.random.Generator) -> bytes:
    """Return the content with one fault: bytes changed, lost, doubled or cut off, or a number made absurd."""
    n = len(content)
    place = int(generator.integers(n) if generator.random() < 0.5 else generator.integers(min(n, 2048)))
    length = int(generator.integers(1, 65))
    match int(generator.integers(8)):
        case 0:
            return content[:place] + bytes([int(generator.integers(256))]) + content[place + 1 :]
        case 1:
            return content[:place] + bytes([content[place] ^ (1 << int(generator.integers(8)))]) + content[place + 1 :]
        case 2:
            return content[: int(generator.integers(n))]
        case 3:
            return content[:place] + bytes(length) + content[place + length :]
        case 4:
            return content[:place] + content[place + length :]
        case 5:
            return content[: place + length] + content[place:]
        case 6:
            place -= place % 8
            huge = HUGE[int(generator.integers(len(HUGE)))].to_bytes(8, "little", signed=True)
            return content[:place] + huge + content[place + 8 :]
        case _:
            return _with_text(content, TEXTS[int(generator.integers(len(TEXTS)))], generator)


def _with_text(content: bytes, text: bytes, generator: np.random.Generator) -> bytes:
    """Put a text in the place of one of the numbers that are written as text."""
    numbers = list(re.finditer(rb"-?\d+\.?\d*", content))
    if not numbers:
        return content[:-1]
    chosen = numbers[int(generator.integers(len(numbers)))]
    return content[: chosen.start()] + text + content[chosen.end() :]


def as_file(options: dict[str, Any]) -> Read:
    """Return how to read a file with the arguments of ``open_molecules``."""

    def read(path: Path) -> tuple[list[Molecule], int]:
        molecules, report = open_molecules(path, Reading(**options))
        return list(molecules), report.skipped.total()

    return read


def outcome(path: Path, expected: list[Molecule], read: Read, names: Sequence[str] = ()) -> str:
    """Read a file and say: right, refused, changed (numbers), lost (molecules), or what went wrong.

    An error must name the file, or one of ``names``, with which the names of records begin.
    """
    try:
        found, n_skipped = read(path)
    except ValueError as error:
        return "refused" if any(name in str(error) for name in (path.name, *names)) else f"not named: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if any(not np.isfinite(value).all() for m in found for value in m.labels.values()):
        return "not finite"
    if len(found) + n_skipped < len(expected):
        return "lost"
    same = len(found) == len(expected) and all(map(_equal, found, expected))
    return "right" if same else "changed"


def _equal(a: Molecule, b: Molecule) -> bool:
    return (
        np.array_equal(a.atomic_numbers, b.atomic_numbers)
        and np.array_equal(a.positions, b.positions)
        and set(a.labels) == set(b.labels)
        and all(np.array_equal(a.labels[key], b.labels[key]) for key in a.labels)
        and (a.charge, a.smiles) == (b.charge, b.smiles)
    )


def damaged(path: Path, n: int, seed: int, is_archive: bool = False) -> Iterator[Path]:
    """Yield a file beside ``path``, damaged another way each time; of an archive, every other time what is in it."""
    generator = np.random.default_rng(seed)
    content = path.read_bytes()
    inner = {name: stream.read() for name, stream in walk(path)} if is_archive else {}
    target = path.with_name(f"damaged{path.suffix}")
    for i in range(n):
        if inner and i % 2:
            name = sorted(inner)[int(generator.integers(len(inner)))]
            write = write_zip if path.suffix == ".zip" else write_tar
            write(target, {**inner, name: damage(inner[name], generator)})
        else:
            target.write_bytes(damage(content, generator))
        yield target


def outcomes(path: Path, n: int, seed: int, options: dict[str, Any]) -> Counter[str]:
    """Count the outcomes of reading a file damaged in n ways, in this process."""
    read = as_file(options)
    expected, _ = read(path)
    return Counter(outcome(target, expected, read) for target in damaged(path, n, seed))


class Worker:
    """A process that reads damaged files and says the outcome; with ``ROOM`` for what it reads."""

    def __init__(self, expected: list[Molecule], read: Read, names: Sequence[str]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_work, args=(there, expected, read, names), daemon=True)
        self.process.start()
        there.close()

    def outcome(self, path: Path, limit: float) -> str:
        """Return the outcome; ``hang`` or ``crash`` when there is none, and then the process is gone."""
        self.pipe.send(path)
        try:
            if self.pipe.poll(limit):
                return self.pipe.recv()
            self.process.kill()
            return "hang"
        except EOFError:
            self.process.join()
            return f"crash {self.process.exitcode}"


def _work(pipe: Any, expected: list[Molecule], read: Read, names: Sequence[str]) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    while True:
        pipe.send(outcome(pipe.recv(), expected, read, names))


def isolated_outcomes(
    path: Path,
    n: int,
    seed: int,
    read: Read,
    *,
    is_archive: bool = False,
    names: Sequence[str] = (),
    limit: float = 20.0,
) -> Counter[str]:
    """Count the outcomes in another process, so that a crash or a hang is one of them; times in seconds."""
    expected, _ = read(path)
    counts: Counter[str] = Counter()
    worker = Worker(expected, read, names)
    for target in damaged(path, n, seed, is_archive):
        started = time.monotonic()
        found = worker.outcome(target, limit)
        counts[found] += 1
        counts["slow"] += time.monotonic() - started > limit / 4
        if not worker.process.is_alive() or found.startswith(("hang", "crash")):
            worker = Worker(expected, read, names)
    worker.process.kill()
    return +counts
