"""C++ that is compiled where it runs."""

import ctypes
import os
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
    assert len(list(cache.glob("*.so"))) == 1
    assert value_of(load(file, {"GIVEN": "1"})) == 2
    (tmp_path / "given.h").write_text("#define ADDED 2\n")
    assert value_of(load(file, {"GIVEN": "1"})) == 3
    libraries = {path.name for path in cache.glob("*.so")}
    assert len(libraries) == 3
    assert {path.name for path in cache.iterdir()} == libraries | {f"{name}.sha256" for name in libraries}


def replace_kept(cache: Path, content: bytes) -> None:
    """Put another file in the place of the library, as one that is not loaded yet: a new file of the same name."""
    (place,) = cache.glob("*.so")
    place.unlink()
    place.write_bytes(content)


def test_a_library_that_was_cut_or_changed_is_compiled_anew(tmp_path: Path, cache: Path) -> None:
    file = source(tmp_path, "41 + ADDED")
    load(file, {})
    (place,) = cache.glob("*.so")
    whole = place.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + b"x"):
        replace_kept(cache, damaged)
        assert value_of(load(file, {})) == 42
        assert place.read_bytes() == whole


def test_a_library_without_a_hash_beside_it_is_compiled_anew(tmp_path: Path, cache: Path) -> None:
    file = source(tmp_path, "7")
    load(file, {})
    (note,) = cache.glob("*.sha256")
    before = note.read_bytes()
    note.unlink()
    load(file, {})
    assert note.read_bytes() == before


def test_a_library_that_lacks_a_function_is_compiled_anew_or_refused(tmp_path: Path, cache: Path) -> None:
    file = source(tmp_path, "7")
    load(file, {})
    (place,) = cache.glob("*.so")
    other = tmp_path / "other.cpp"
    other.write_text('extern "C" int another() { return 1; }')
    load(other, {})
    (of_other,) = cache.glob("other-*.so")
    replaced = of_other.read_bytes()
    of_other.unlink()
    replace_kept(cache, replaced)
    place.with_name(f"{place.name}.sha256").write_text(cpp._fingerprint(place))
    assert value_of(load(file, {}, ["value"])) == 7
    with pytest.raises(NoCompilerError, match="lacks the functions nothing"):
        load(file, {}, ["value", "nothing"])


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_folder_of_libraries_is_private_and_one_that_others_may_write_to_is_refused(
    tmp_path: Path, cache: Path
) -> None:
    file = source(tmp_path, "7")
    load(file, {})
    assert cache.stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o777, 0o1777):
        cache.chmod(mode)
        with pytest.raises(NoCompilerError, match=r"others may write to it.*chmod go-w .*BASINET_KERNELS"):
            load(file, {})
    cache.chmod(0o755)
    assert value_of(load(file, {})) == 7


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_or_a_library_of_another_user_is_not_loaded(tmp_path: Path, cache: Path) -> None:
    file = source(tmp_path, "7")
    load(file, {})
    (place,) = cache.glob("*.so")
    os.chown(place, 65534, 65534)
    assert value_of(load(file, {})) == 7
    assert place.stat().st_uid == 0, "compiled anew"
    os.chown(cache, 65534, 65534)
    with pytest.raises(NoCompilerError, match="belongs to another user"):
        load(file, {})


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
