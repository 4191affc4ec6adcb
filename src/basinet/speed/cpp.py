"""Compile C++ sources on the machine that runs them, for its processor.

g++ or clang++ (``CXX`` names another compiler) takes about a second at the first use; the result is cached on disk.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pooch

from basinet.files import replacing

DIRECTORY_VARIABLE = "BASINET_KERNELS"
OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
SHARED = ("-fPIC", "-shared", "-fopenmp-simd")
WIDE = "-mprefer-vector-width=512"
"""Full width of AVX-512; by default compilers use half of it."""


class NoCompilerError(RuntimeError):
    """There is no C++ compiler, or it does not compile what it is given."""


def load(source: Path, names: Mapping[str, str]) -> ctypes.CDLL:
    """Return a compiled C++ file.

    Args:
        source: of extern "C" functions.
        names: to define for it, and as what.

    Raises:
        NoCompilerError: there is no compiler, or it fails; with its output.
    """
    compiler = find_compiler()
    options = (*_options(compiler), *(f"-D{name}={value}" for name, value in names.items()))
    text = _run([compiler, *options, "-E", "-P", str(source)])  # with all that it includes
    key = hashlib.sha256("\0".join([text, _target(compiler), *options]).encode()).hexdigest()
    try:
        place = cache_directory() / f"{source.stem}-{key[:24]}.so"
        if not place.exists():
            _compile(compiler, options, source, place)
        return ctypes.CDLL(str(place))
    except OSError as error:
        raise NoCompilerError(
            f"compiled C++ cannot be kept or loaded: {error}; {DIRECTORY_VARIABLE} names another directory"
        ) from error


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
    """Return where compiled files are kept: ``BASINET_KERNELS``, or beside what else basinet keeps for a user."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    directory = Path(chosen).expanduser() if chosen else Path(pooch.os_cache("basinet")) / "kernels"
    directory.mkdir(parents=True, exist_ok=True)
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


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoCompilerError(f"{command[0]} cannot be started: {error}") from error
    if done.returncode:
        raise NoCompilerError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
