"""C++ that is compiled where it runs."""

import ctypes
from pathlib import Path

import pytest
from edge_stages import has_compiler

from basinet.speed import cpp
from basinet.speed.cpp import NoCompilerError, load

pytestmark = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler to compile with")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BASINET_KERNELS", str(tmp_path / "kept"))
    return tmp_path / "kept"


def source(tmp_path: Path, text: str) -> Path:
    (tmp_path / "given.h").write_text("#define ADDED 1\n")
    file = tmp_path / "one.cpp"
    file.write_text('#include "given.h"\nextern "C" int value() { return ' + text + "; }\n")
    return file


def value_of(library: ctypes.CDLL) -> int:
    return library.value()


def test_it_is_compiled_once_and_again_when_anything_changes(tmp_path: Path, cache: Path) -> None:
    file = source(tmp_path, "GIVEN + ADDED")
    assert value_of(load(file, {"GIVEN": "41"})) == 42
    assert value_of(load(file, {"GIVEN": "41"})) == 42
    assert len(list(cache.iterdir())) == 1
    assert value_of(load(file, {"GIVEN": "1"})) == 2
    (tmp_path / "given.h").write_text("#define ADDED 2\n")
    assert value_of(load(file, {"GIVEN": "1"})) == 3
    assert {path.suffix for path in cache.iterdir()} == {".so"} and len(list(cache.iterdir())) == 3


def test_what_the_compiler_says_is_told_and_nothing_is_left(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(NoCompilerError, match=r"(?s)failed:.*nowhere"):
        load(source(tmp_path, "nowhere"), {})
    assert list(cache.iterdir()) == []


def test_the_compiler_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoCompilerError, match="there is no C\\+\\+ compiler .*CXX"):
        cpp.find_compiler()
    monkeypatch.setenv("CXX", "sh")
    assert Path(cpp.find_compiler()).name == "sh"


@pytest.mark.parametrize("command", ["/nowhere/g++", "false"], ids=["not there", "fails"])
def test_a_compiler_that_does_not_work_is_none(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp, "find_compiler", lambda: command)
    with pytest.raises(NoCompilerError):
        load(source(tmp_path, "1"), {})


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BASINET_KERNELS", str(tmp_path / "file"))
    with pytest.raises(NoCompilerError, match="BASINET_KERNELS"):
        load(source(tmp_path, "1"), {})


def test_a_file_that_is_damaged_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp, "_compile", lambda *given: given[-1].write_bytes(b"no library"))
    with pytest.raises(NoCompilerError, match=f"cannot be kept or loaded: .*{cache.name}/one-.*BASINET_KERNELS"):
        load(source(tmp_path, "1"), {})


def test_an_option_that_the_compiler_lacks_is_left_out(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpp, "WIDE", "-mno-such-option-of-any-compiler")
    cpp._options.cache_clear()
    try:
        assert value_of(load(source(tmp_path, "7"), {})) == 7
    finally:
        cpp._options.cache_clear()
