"""Putting files where a person wants them: whole or not at all, and never over something else.

Nothing is synced to the disk, which would take longer than all the rest: what is written here is a copy, which
can be pulled again. The registry's own store is the one that outlives a power cut.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from promptreg.errors import DestinationError, StoreFullError

__all__ = ["place_directory", "place_file"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MOST_SHOWN = 3
_ELSEWHERE = "name a destination that you can write to"


def place_file(destination: Path, data: bytes) -> None:
    """Write ``data`` as the file ``destination``, which must not exist.

    Raises:
        DestinationError: Something is there already, or the place cannot be written.
        StoreFullError: There is no room left.
    """
    with _translated(destination):
        if os.path.lexists(destination):
            raise _occupied(destination, "it exists already")
        part = _part_beside(destination)
        try:
            _write(part, data)
            part.rename(destination)
        finally:
            part.unlink(missing_ok=True)


def place_directory(destination: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` by their names into the directory ``destination``, which must not exist or be empty.

    Raises:
        DestinationError: Something is there already, or the place cannot be written.
        StoreFullError: There is no room left.
    """
    with _translated(destination):
        _check_empty(destination)
        if destination.is_dir():
            _fill(destination, files)
        else:
            _make(destination, files)


def _make(destination: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory beside its place and rename it: nobody sees it half full."""
    part = _part_beside(destination)
    part.mkdir()
    try:
        for name, data in files.items():
            _write(part / name, data)
        part.rename(destination)  # onto a directory that somebody filled meanwhile, it fails
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(destination: Path, files: Mapping[str, bytes]) -> None:
    """Fill an empty directory; it stays the same one, as a shell may stand in it or a disk be mounted there.

    All bytes are written before the first file gets its name, and the file that makes the directory
    recognisable gets it last.
    """
    part = destination / ".promptreg.part"
    part.mkdir()  # of two that fill one directory at once, the second fails here
    try:
        if os.listdir(destination) != [part.name]:  # noqa: PTH208, only the names
            raise _occupied(destination, "somebody else has just written there")
        for name, data in files.items():
            _write(part / name, data)
        placed: list[Path] = []
        try:
            for name in files:
                (part / name).rename(destination / name)
                placed.append(destination / name)
        except BaseException:  # an interrupted pull leaves nothing either
            for path in placed:
                path.unlink(missing_ok=True)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)


def _part_beside(destination: Path) -> Path:
    """Return a name that nobody else has, on the same file system."""
    return destination.parent / f".promptreg-{secrets.token_hex(8)}.part"


def _check_empty(destination: Path) -> None:
    if not os.path.lexists(destination):
        return
    if not destination.is_dir():
        raise _occupied(destination, "it is a file, and a directory is to be written")
    names = sorted(os.listdir(destination))  # noqa: PTH208, only the names
    if names:
        more = ", ..." if len(names) > _MOST_SHOWN else ""
        shown = ", ".join(ascii(name)[1:-1] for name in names[:_MOST_SHOWN]) + more
        raise _occupied(destination, f"it is not empty (it holds {shown})")


def _occupied(destination: Path, reason: str) -> DestinationError:
    return DestinationError(str(destination), reason, "name a destination that does not exist yet")


@contextmanager
def _translated(destination: Path) -> Iterator[None]:
    """Turn what the file system refuses into our errors."""
    try:
        yield
    except ValueError as error:  # a path with a NUL
        if isinstance(error, DestinationError):
            raise
        raise DestinationError(str(destination), str(error), _ELSEWHERE) from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise StoreFullError(str(destination), reason) from error
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            raise _occupied(destination, "somebody else is writing there") from error
        if error.errno == errno.ENOENT:
            folder = destination.parent
            remedy = f"make the directory {folder} first"
            raise DestinationError(str(destination), f"{folder} is not there", remedy) from error
        raise DestinationError(str(destination), reason, _ELSEWHERE) from error
