"""What lies at a path that a person names: looked at with care, read once, never trusted."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from promptreg.artifacts.pickles import name_pickle
from promptreg.artifacts.tensors import MAX_FILE
from promptreg.errors import InvalidArtifactError, PickleRefusedError

__all__ = ["Found"]

_ENDS = 64 * 2**10
_NAME_IT = "name a prompt's file or directory that you can read"


class Found:
    """A file or a directory on its way to become a soft prompt.

    A person's own links are followed. Devices, pipes and sockets are refused without waiting on them.

    Attributes:
        path: Where it lies.
        is_directory: Whether it is a directory; otherwise it is a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _translated(path):
            mode = path.stat().st_mode
        self.is_directory = stat.S_ISDIR(mode)
        if not self.is_directory:
            _check_regular(path, mode)

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names in the directory; none if this is a file."""
        if not self.is_directory:
            return frozenset()
        with _translated(self.path), os.scandir(self.path) as entries:
            return frozenset(entry.name for entry in entries)

    @cached_property
    def data(self) -> bytes:
        """The bytes of the file; none if this is a directory.

        Raises:
            PickleRefusedError: They are a pickle.
            InvalidArtifactError: They are too many, or cannot be read.
        """
        return b"" if self.is_directory else _read(self.path, MAX_FILE)

    def member(self, name: str, *, limit: int = MAX_FILE) -> bytes:
        """Return the bytes of the file ``name`` in the directory.

        Raises:
            PickleRefusedError: They are a pickle.
            InvalidArtifactError: They are more than ``limit``, cannot be read, or the file is missing.
        """
        return _read(self.path / name, limit)


def _read(path: Path, limit: int) -> bytes:
    with _translated(path), _opened(path) as (file, size):
        if size <= limit:
            data = file.read(limit + 1)  # it may have grown, and a pipe of bytes has no end
            head, tail = data[:_ENDS], data[-_ENDS:]
        else:
            data, head = b"", file.read(_ENDS)
            file.seek(-_ENDS, os.SEEK_END)
            tail = file.read(_ENDS)
    # Before its length, so that a large pickle is called a pickle.
    kind = name_pickle(head, tail)
    if kind is not None:
        raise PickleRefusedError(str(path), kind)
    if max(size, len(data)) > limit:
        found = f"it is {max(size, len(data)):,} bytes long, and at most {limit:,} are read"
        raise InvalidArtifactError(str(path), found, "name the file of one prompt, and no other")
    return data


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file, and yield it with its size; opening a pipe must not wait for a writer."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        _check_regular(path, status.st_mode)
        file = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with file:
        yield file, status.st_size


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise InvalidArtifactError(str(path), f"it is {kind}, and a file was expected", _NAME_IT)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into our error."""
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidArtifactError(str(path), "nothing is there", _NAME_IT) from error
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        if isinstance(error, InvalidArtifactError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidArtifactError(str(path), f"it cannot be read: {reason}", _NAME_IT) from error
