"""Compile C++ sources on the machine that runs them, for its processor.

g++ or clang++ (``CXX`` names another compiler) takes about a second at the first use; the result is cached on disk,
with its size and hash beside it. A library runs with the rights of who loads it: folder and file must be of this user
(or of root) and closed to others, and what is damaged is compiled anew.
"""

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pooch

from basinet.files import replacing, write_text

DIRECTORY_VARIABLE = "BASINET_KERNELS"
PRIVATE = 0o700
"""Mode of the folder of compiled files."""
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
SHARED = ("-fPIC", "-shared", "-fopenmp-simd")
WIDE = "-mprefer-vector-width=512"
"""Full width of AVX-512; by default compilers use half of it."""


class NoCompilerError(RuntimeError):
    """There is no C++ compiler, or it does not compile what it is given."""


def load(source: Path, names: Mapping[str, str], functions: Sequence[str] = ()) -> ctypes.CDLL:
    """Return a compiled C++ file.

    Args:
        source: of extern "C" functions.
        names: to define for it, and as what.
        functions: that it must have.

    Raises:
        NoCompilerError: there is no compiler, or it fails; with its output. Or others may write to the folder.
    """
    compiler = find_compiler()
    options = (*_options(compiler), *(f"-D{name}={value}" for name, value in names.items()))
    text = _run([compiler, *options, "-E", "-P", str(source)])  # with all that it includes
    key = hashlib.sha256("\0".join([text, _target(compiler), *options]).encode()).hexdigest()
    try:
        place = cache_directory() / f"{source.stem}-{key[:24]}.so"
        if _is_whole(place) and (kept := _opened(place, functions)) is not None:
            return kept
        _compile(compiler, options, source, place)
        library = ctypes.CDLL(str(place))
    except OSError as error:
        raise NoCompilerError(
            f"compiled C++ cannot be kept or loaded: {error}; {DIRECTORY_VARIABLE} names another directory"
        ) from error
    if lacking := [name for name in functions if not hasattr(library, name)]:
        raise NoCompilerError(f"{source} as compiled lacks the functions {', '.join(lacking)}")
    return library


def _opened(place: Path, functions: Sequence[str]) -> ctypes.CDLL | None:
    """Return a library, or nothing if it cannot be loaded or lacks a function."""
    try:
        library = ctypes.CDLL(str(place))
    except OSError:
        return None
    return library if all(hasattr(library, name) for name in functions) else None


def _is_whole(place: Path) -> bool:
    """Whether a library is there, closed to others, with the size and hash that were written when it was compiled."""
    note = _note(place)
    if not (place.is_file() and note.is_file() and _is_closed(place) and _is_closed(note)):
        return False
    return note.read_bytes() == _fingerprint(place).encode()


def _note(place: Path) -> Path:
    """Return the file with size and hash of a library."""
    return place.with_name(f"{place.name}.sha256")


def _fingerprint(place: Path) -> str:
    content = place.read_bytes()
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n"


def _is_closed(path: Path) -> bool:
    """Whether a file or folder is of this user or of root, and nobody else may write to it."""
    if os.name != "posix":  # no owners and modes as here
        return True
    found = path.stat()
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def find_compiler() -> str:
    """Return the command of the C++ compiler.

    Raises:
        NoCompilerError: there is no compiler.
    """
    chosen = os.environ.get("CXX")
    candidates = [chosen] if chosen else ["g++", "clang++"]
    found = next((path for name in candidates if (path := shutil.which(name)) is not None), None)
    if found is None:
        raise NoCompilerError("there is no C++ compiler (g++ or clang++, or the one that CXX names)")
    return found


def cache_directory() -> Path:
    """Return where compiled files are kept: ``BASINET_KERNELS``, or beside what else basinet keeps for a user.

    Raises:
        NoCompilerError: it is of another user, or others may write to it.
    """
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    directory = Path(chosen).expanduser() if chosen else Path(pooch.os_cache("basinet")) / "kernels"
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=PRIVATE, exist_ok=True)
    if not chosen and os.name == "posix" and directory.stat().st_uid == os.geteuid():
        directory.chmod(PRIVATE)  # made by an earlier version with the mode of the umask
    if not _is_closed(directory):
        raise NoCompilerError(
            f"{directory} belongs to another user, or others may write to it, and compiled C++ in it would run as you; "
            f"type chmod go-w {directory}, or name a folder of your own by {DIRECTORY_VARIABLE}"
        )
    return directory


@cache
def _target(compiler: str) -> str:
    """Return the compiler's macros for itself and this processor, a part of the key of the cache."""
    return _run([compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])


@cache
def _options(compiler: str) -> tuple[str, ...]:
    """Return those options that the compiler knows; without OpenMP there is one thread."""
    known = [*OPTIONS, *SHARED]
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "try.cpp"
        source.write_text("int one() { return 1; }\n")
        for option in (WIDE, "-fopenmp"):
            try:
                _run([compiler, *known, option, str(source), "-o", str(Path(directory) / "try.so")])
            except NoCompilerError:
                continue
            known.append(option)
    return tuple(known)


def _compile(compiler: str, options: tuple[str, ...], source: Path, place: Path) -> None:
    """Compile beside the place and move there: several processes may want the same at once."""
    with replacing(place) as beside:
        _run([compiler, *options, str(source), "-o", str(beside)])
        beside.chmod(beside.stat().st_mode & ~(stat.S_IWGRP | stat.S_IWOTH))
        fingerprint = _fingerprint(beside)
    write_text(_note(place), fingerprint)
    _note(place).chmod(0o644)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoCompilerError(f"{command[0]} cannot be started: {error}") from error
    if done.returncode:
        raise NoCompilerError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
