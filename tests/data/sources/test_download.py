"""Downloads: whole or not there, resumed where they broke off, from the next address where one fails."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from basinet.data.sources import cache, download
from basinet.data.sources.cache import LOCK_FILE, WrongFileError, cache_directory, verify
from basinet.data.sources.collection import RemoteFile
from basinet.data.sources.download import DownloadError, fetch_file

CONTENT = bytes(range(256)) * 4000
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A server that behaves as its settings say, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.etag = '"v1"'
        self.break_off: list[int] = []
        """Bytes after which each of the next answers breaks off."""
        self.status = 200
        self.kind = "application/octet-stream"
        self.asked: list[str | None] = []

    def url(self, name: str = "file.bin") -> str:
        """Return the address of a file."""
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:  # noqa: N802
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else server.status)
        body = server.content[start:]
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", server.kind)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[: server.break_off.pop(0)] if server.break_off else body)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(download, "BLOCK", 1000)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(*urls: str, checksum: str | None = SHA256, n_bytes: int | None = None) -> RemoteFile:
    return RemoteFile(name="file.bin", urls=urls, checksum=checksum, n_bytes=n_bytes)


@pytest.mark.parametrize("checksum", [SHA256, MD5, None])
def test_a_file_is_downloaded_once_and_progress_ends_at_its_size(server, tmp_path, checksum):
    seen: list[tuple[int, int | None, str]] = []
    file = remote(server.url(), checksum=checksum)
    for _ in range(2):
        path = fetch_file(file, tmp_path / "cache", lambda *a: seen.append(a))
    assert path.read_bytes() == CONTENT and len(server.asked) == 1
    assert seen[-1] == (len(CONTENT), len(CONTENT), "file.bin")
    assert sorted(p.name for p in path.parent.iterdir()) == ["file.bin", LOCK_FILE]


def test_a_connection_that_breaks_off_is_taken_up_where_it_stopped(server, tmp_path):
    server.break_off = [300_000, 400_000]
    assert fetch_file(remote(server.url()), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=700000-"]


def test_a_download_that_was_killed_goes_on_in_the_next_process(server, tmp_path, monkeypatch):
    server.break_off = [300_000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(DownloadError):
        fetch_file(remote(server.url()), tmp_path)
    assert (tmp_path / "file.bin.part").stat().st_size == 300_000 and not (tmp_path / "file.bin").exists()
    fetch_file(remote(server.url()), tmp_path)
    assert server.asked == [None, "bytes=300000-"] and (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_of_it_again(server, tmp_path):
    server.ranges, server.break_off = False, [300_000]
    assert fetch_file(remote(server.url()), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_server_that_names_no_version_is_not_asked_for_the_rest(server, tmp_path):
    server.etag, server.break_off = "", [300_000]
    assert fetch_file(remote(server.url(), checksum=None), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_file_that_changed_in_between_is_not_glued_together(server, tmp_path, monkeypatch):
    server.break_off = [300_000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(DownloadError):
        fetch_file(remote(server.url(), checksum=None), tmp_path)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert fetch_file(remote(server.url(), checksum=None), tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_that_never_gets_further_is_given_up(server, tmp_path):
    server.ranges, server.break_off = False, [1000] * 50
    with pytest.raises(DownloadError, match="put the file here yourself"):
        fetch_file(remote(server.url()), tmp_path)
    assert len(server.asked) == 2


def test_a_wrong_file_is_not_kept_and_the_next_address_is_tried(server, tmp_path):
    with Server() as wrong:
        wrong.content = b"another file"
        threading.Thread(target=wrong.serve_forever, daemon=True).start()
        path = fetch_file(remote(wrong.url(), server.url()), tmp_path)
        assert path.read_bytes() == CONTENT
        path.unlink()
        (tmp_path / LOCK_FILE).unlink()
        with pytest.raises(DownloadError, match=rf"its sha256 is [0-9a-f]+, but {SHA256[7:]} was published"):
            fetch_file(remote(wrong.url()), tmp_path)
        assert not list(tmp_path.iterdir())
        wrong.shutdown()


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [(404, "text/plain", "404"), (202, "application/x", "202"), (200, "text/html; charset=utf-8", "a web page")],
)
def test_an_error_or_a_web_page_is_no_file(server, tmp_path, status, kind, why):
    server.status, server.kind = status, kind
    with pytest.raises(DownloadError, match=why):
        fetch_file(remote(server.url(), checksum=None), tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_the_size_is_compared_before_the_hash(server, tmp_path):
    with pytest.raises(DownloadError, match="it has 1,024,000 bytes, expected 5"):
        fetch_file(remote(server.url(), n_bytes=5), tmp_path)


def test_without_a_published_hash_the_first_file_is_believed_and_another_refused(server, tmp_path):
    file = remote(server.url(), checksum=None)
    path = fetch_file(file, tmp_path)
    record = json.loads((tmp_path / LOCK_FILE).read_text())["file.bin"]
    assert record["sha256"] == SHA256[7:] and record["believed"] == "first use" and record["origin"] == server.url()
    path.unlink()
    server.content, server.etag = b"changed", '"v2"'
    with pytest.raises(DownloadError, match="the file that was here first had"):
        fetch_file(file, tmp_path)
    path.write_bytes(b"changed by hand")
    with pytest.raises(WrongFileError, match="delete it, and it is downloaded again"):
        fetch_file(file, tmp_path)
    path.write_bytes(CONTENT)
    assert fetch_file(file, tmp_path) == path


def test_a_file_put_there_by_hand_is_verified(tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert fetch_file(remote("http://127.0.0.1:9/x"), tmp_path) == tmp_path / "file.bin"
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WrongFileError, match="was published"):
        fetch_file(remote("http://127.0.0.1:9/x"), tmp_path)


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    verify(path, remote(), "here")
    monkeypatch.setattr(cache, "_digests", None)
    assert verify(path, remote(), "here") == SHA256[7:]


def test_offline_names_the_addresses_and_the_exact_place(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BASINET_OFFLINE", "1")
    with pytest.raises(DownloadError) as error:
        fetch_file(remote(server.url(), "http://mirror.example/x"), tmp_path)
    for text in (server.url(), "http://mirror.example/x", str(tmp_path / "file.bin"), "BASINET_OFFLINE=1", SHA256):
        assert text in str(error.value)
    assert not server.asked
    monkeypatch.setenv("BASINET_OFFLINE", "yes")
    with pytest.raises(ValueError, match="BASINET_OFFLINE must be 0 or 1, got 'yes'"):
        fetch_file(remote(server.url()), tmp_path)


def test_a_closed_network_is_one_line_an_address(tmp_path):
    with pytest.raises(DownloadError, match=r"http://127.0.0.1:9/x: cannot be reached \(\w+\)"):
        fetch_file(remote("http://127.0.0.1:9/x"), tmp_path)


def test_a_damaged_record_says_so(tmp_path):
    (tmp_path / LOCK_FILE).write_text("[1, 2")
    (tmp_path / "file.bin").write_bytes(CONTENT)
    with pytest.raises(ValueError, match="is damaged; delete it"):
        fetch_file(remote("http://127.0.0.1:9/x"), tmp_path)


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("BASINET_DATA", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("BASINET_DATA")
    assert "basinet" in str(cache_directory()) and isinstance(cache_directory(), Path)
