"""Read single files of archives; names in an archive never decide where a file is written."""

import errno
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tarfile import EOFHeaderError, HeaderError, ReadError, TarFile, TarInfo  # pyright: ignore[reportAttributeAccessIssue]

from basinet.files import Stream, replacing
from basinet.structures import StructureError

EXTRACTED = "extracted"
"""Directory beside an archive for the files extracted from it."""


def extract(archive: Path, members: Sequence[str]) -> list[Path]:
    """Extract files of a tar or zip archive in one pass, named by the ends of their paths, and return where they are.

    Raises:
        StructureError: the archive is damaged, or has no such file.
    """
    directory = archive.parent / EXTRACTED / archive.name
    targets = {member: directory / member.replace("/", "_") for member in members}
    missing = {member: target for member, target in targets.items() if not target.exists() or _older(target, archive)}
    if missing:
        directory.mkdir(parents=True, exist_ok=True)
        with damage_named(archive):
            for name, stream in walk(archive):
                member = next((m for m in missing if name == m or name.endswith(f"/{m}")), None)
                if member is not None:
                    with replacing(missing.pop(member)) as temporary, open(temporary, "wb") as out:
                        shutil.copyfileobj(stream, out, 2**20)
                if not missing:
                    break
    if missing:
        raise StructureError(f"{archive}: has no {', '.join(missing)}")
    return list(targets.values())


def walk(archive: Path) -> Iterator[tuple[str, Stream]]:
    """Yield path and stream of every file in a tar (compressed or not) or zip archive, in its order.

    The caller reads the streams within :func:`damage_named`.

    Raises:
        StructureError: the archive is damaged.
    """
    with damage_named(archive):
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as file:
                for info in file.infolist():
                    if not info.is_dir():
                        with file.open(info) as stream:
                            yield info.filename, stream
            return
        with tarfile.open(archive, "r|*", tarinfo=StrictHeader) as file:
            for member in file:
                stream = file.extractfile(member) if member.isreg() else None
                if stream is not None:
                    yield member.name, stream


def _is_zip(archive: Path) -> bool:
    """Check the first bytes; ``zipfile.is_zipfile`` checks the end, where a tar may hold an .npz."""
    with open(archive, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


class StrictHeader(TarInfo):
    """A header of a tar archive that raises if it is damaged or missing; ``tarfile`` takes that for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> TarInfo:
        """Return the next header, or raise a ``ReadError``."""
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(f"a header is damaged or missing: {error}") from None


@contextmanager
def damage_named(archive: Path) -> Iterator[None]:
    """Raise errors of a damaged archive as a ``StructureError`` that names it; errors of the disk pass."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: sent to a place before 0
            raise
        raise StructureError(f"{archive}: the archive is damaged or truncated ({error})") from None


def _older(target: Path, archive: Path) -> bool:
    return os.stat(target).st_mtime_ns < os.stat(archive).st_mtime_ns
