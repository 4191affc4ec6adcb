"""Damage files at random and say what a reader makes of them."""

import multiprocessing
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from basinet.data.readers import open_molecules
from basinet.structures import Molecule

HUGE = (2**31 - 1, 2**40, 2**62, -1)
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


def outcome(path: Path, expected: list[Molecule], options: dict[str, Any]) -> str:
    """Read a file and say: right, refused, changed (numbers), lost (molecules), or what went wrong."""
    try:
        molecules, report = open_molecules(path, **options)
        found = list(molecules)
    except ValueError as error:
        return "refused" if str(path.name) in str(error) else f"not named: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if any(not np.isfinite(value).all() for m in found for value in m.labels.values()):
        return "not finite"
    if len(found) + sum(report.skipped.values()) < len(expected):
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


def damaged(path: Path, n: int, seed: int) -> Iterator[Path]:
    """Yield a file beside ``path`` that is damaged another way each time."""
    generator = np.random.default_rng(seed)
    content = path.read_bytes()
    target = path.with_name(f"damaged{path.suffix}")
    for _ in range(n):
        target.write_bytes(damage(content, generator))
        yield target


def outcomes(path: Path, n: int, seed: int, options: dict[str, Any]) -> Counter[str]:
    """Count the outcomes of reading a file damaged in n ways, in this process."""
    molecules, _ = open_molecules(path, **options)
    expected = list(molecules)
    return Counter(outcome(target, expected, options) for target in damaged(path, n, seed))


def isolated_outcomes(path: Path, n: int, seed: int, options: dict[str, Any], limit: float = 20.0) -> Counter[str]:
    """Count the outcomes, each in a process of its own, so that a crash or a hang is one of them; times in seconds."""
    molecules, _ = open_molecules(path, **options)
    expected = list(molecules)
    context = multiprocessing.get_context("fork")
    counts: Counter[str] = Counter()
    for target in damaged(path, n, seed):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=lambda s=send, t=target: s.send(outcome(t, expected, options)))
        started = time.monotonic()
        child.start()
        child.join(limit)
        if child.is_alive():
            child.kill()
            counts["hang"] += 1
        elif receive.poll():
            counts[receive.recv()] += 1
        else:
            counts[f"crash {child.exitcode}"] += 1
        if time.monotonic() - started > limit / 4:
            counts["slow"] += 1
        child.join()
        receive.close()
        send.close()
    return counts
