"""Download files: resumed where they broke off, verified, moved into place in one step."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

from basinet.data.sources.cache import OFFLINE_VARIABLE, WrongFileError, is_offline, verify
from basinet.data.sources.collection import RemoteFile
from basinet.files import move, write_text

TIMEOUT = (10.0, 60.0)
"""Limits in seconds: to connect, and between two blocks."""
BLOCK = 2**16
"""Bytes of a block; a broken connection loses one block at most."""
ATTEMPTS = 20
"""Largest number of attempts with one address, as long as each gets further."""
PARTIAL = ".part"
"""Suffix of unfinished downloads."""

OnBytes = Callable[[int, int | None, str], None]
"""Called with the bytes so far, their total (``None``: not known), and the name of the file."""


class DownloadError(ConnectionError):
    """Error about a file that is missing and could not be downloaded; the message says what to do."""


def fetch_file(file: RemoteFile, directory: Path, on_bytes: OnBytes | None = None) -> Path:
    """Return a file of the cache, downloaded if it is missing; addresses are tried in order.

    A download that broke off is resumed, also by another process, if the server supports that and still has the same
    file. A file that was put there by hand is verified like any other.

    Raises:
        WrongFileError: the file in the cache is not the published one.
        DownloadError: it could not be downloaded; the message says where to get it and where to put it.
    """
    path = directory / file.name
    directory.mkdir(parents=True, exist_ok=True)
    if path.exists():
        try:
            verify(path, file, "put there by hand")
        except WrongFileError as error:
            raise WrongFileError(f"{path}: {error}; delete it, and it is downloaded again") from None
        return path
    if is_offline():
        raise DownloadError(_by_hand(file, path, [f"{OFFLINE_VARIABLE}=1 forbids the network"]))
    partial = path.with_name(path.name + PARTIAL)
    failures: list[str] = []
    for url in file.urls:
        try:
            _download(url, partial, file, on_bytes)
            verify(partial, file, url, place=path)
        except (requests.RequestException, WrongFileError) as error:
            failures.append(f"{url}: {_reason(error)}")
            if isinstance(error, WrongFileError):
                forget(partial)
            continue
        move(partial, path)
        forget(partial)
        return path
    raise DownloadError(_by_hand(file, path, failures))


def forget(partial: Path) -> None:
    """Delete an unfinished download and its record."""
    partial.unlink(missing_ok=True)
    _note(partial).unlink(missing_ok=True)


def _download(url: str, partial: Path, file: RemoteFile, on_bytes: OnBytes | None) -> None:
    """Download a file from one address, resuming where the connection broke as long as that helps."""
    for attempt in range(ATTEMPTS):
        before = _size(partial) if attempt else 0
        try:
            _download_once(url, partial, file, on_bytes)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if attempt == ATTEMPTS - 1 or _size(partial) <= before:
                raise
        else:
            return


def _download_once(url: str, partial: Path, file: RemoteFile, on_bytes: OnBytes | None) -> None:
    start, validator = _resumable(url, partial)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    with closing(requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            forget(partial)
            raise requests.ConnectionError("the server has less than was here already")
        if answer.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise requests.HTTPError(f"the server answers {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.HTTPError("the server sends a web page and not the file")
        start, total = _place(answer, start)
        if start == 0:
            validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            write_text(_note(partial), json.dumps({"url": url, "validator": validator}))
        done = start
        with open(partial, "r+b" if start else "wb") as out:
            out.seek(start)
            for block in answer.iter_content(BLOCK):
                out.write(block)
                done += len(block)
                if on_bytes is not None:
                    on_bytes(done, total or file.n_bytes, file.name)
            out.truncate()
    if total is not None and done != total:
        raise requests.ConnectionError(f"{done:,} of {total:,} bytes came")


def _resumable(url: str, partial: Path) -> tuple[int, str]:
    """Return the bytes of this file that are here, and its validator (ETag); 0 bytes if it cannot be resumed."""
    try:
        note: dict[str, Any] = json.loads(_note(partial).read_text(encoding="utf-8"))
        strong = bool(note["validator"]) and not note["validator"].startswith("W/")
        return (_size(partial), note["validator"]) if strong and note["url"] == url else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _place(answer: requests.Response, wanted: int) -> tuple[int, int | None]:
    """Return the offset of the answer in the file, and the size of the file."""
    if answer.status_code == requests.codes.ok:
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length is not None and length.isdecimal() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != wanted:
        raise requests.HTTPError(f"asked for bytes from {wanted}, got {answer.headers.get('Content-Range')!r}")
    return wanted, None if found[2] == "*" else int(found[2])


def _note(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """Return a short text for what may be a long chain of errors."""
    text = " ".join(str(error).split())
    cause = re.search(r"Caused by (\w+)", text)
    return f"cannot be reached ({cause[1]})" if cause else text[:300] or type(error).__name__


def _by_hand(file: RemoteFile, path: Path, failures: list[str]) -> str:
    lines = [f"{file.name} could not be downloaded:", *(f"  {failure}" for failure in failures)]
    lines += ["put the file here yourself:", f"  {path}", "from one of these addresses:"]
    lines += [f"  {url}" for url in file.urls]
    if file.checksum is not None:
        lines.append(f"its checksum is {file.checksum}")
    return "\n".join(lines)
