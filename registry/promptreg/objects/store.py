"""The interface of an object store: bytes in, digest out, verified on every read."""

import re
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from promptreg.digests import Digest
from promptreg.errors import (
    CorruptObjectError,
    InvalidNameError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)

__all__ = ["MAX_OBJECT_SIZE", "ObjectStore"]

MAX_OBJECT_SIZE = 64 * 2**20
"""The most bytes in an object. It goes in one PUT, so its SHA-256 is that of the whole."""

_RECORD = re.compile(r"[a-z0-9]+([._@-][a-z0-9]+)*(/[a-z0-9]+([._@-][a-z0-9]+)*)*")
_LONGEST_RECORD = 512


class ObjectStore(ABC):
    """Content-addressed bytes. Storing twice changes nothing; a reader sees a whole object or none.

    ``str`` names the store as its URL does, and never holds a secret. A store may be used by several threads
    at once, and after a fork.
    """

    def put(self, data: bytes) -> Digest:
        """Store ``data`` and return its digest, once it would survive a crash.

        Storing the same bytes again changes nothing, unless what lies there was damaged: that is mended.

        Raises:
            ObjectTooLargeError: It has more than ``MAX_OBJECT_SIZE`` bytes.
            StoreUnavailableError: The store cannot be reached or written.
            StoreFullError: It has no room left.
        """
        digest = Digest.of(data)
        self._check_size(digest, data)
        self._add(digest, data)
        return digest

    def get(self, digest: Digest) -> bytes:
        """Return the bytes named ``digest``.

        Raises:
            ObjectNotFoundError: The store holds no such object.
            CorruptObjectError: The bytes do not have that digest.
            ObjectTooLargeError: There are more than ``MAX_OBJECT_SIZE`` of them; the rest was not read.
            StoreUnavailableError: The store cannot be reached or read.
        """
        data = self._read(digest.key, MAX_OBJECT_SIZE + 1)
        if data is None:
            raise ObjectNotFoundError(str(digest), str(self))
        self._check_size(digest, data)
        actual = Digest.of(data)
        if actual != digest:
            raise CorruptObjectError(str(digest), str(actual), str(self))
        return data

    def has(self, digest: Digest) -> bool:
        """Return whether the store holds an object named ``digest``, without reading it.

        Raises:
            StoreUnavailableError: The store cannot be reached or read.
        """
        return self._size(digest.key) is not None

    def put_record(self, name: str, data: bytes) -> None:
        """Store ``data`` under ``records/<name>``: a description of a version, for rebuilding the database.

        Records are named after versions, not after their bytes: a second one takes the place of the first.
        They are never read in normal use.

        Args:
            name: ``sst2@3.json``. The ``@`` keeps a version's record apart from the folder of the tasks
                below it, for no task has one in its name.
            data: The record.

        Raises:
            InvalidNameError: The name is outside the grammar.
            StoreUnavailableError: The store cannot be reached or written.
            StoreFullError: It has no room left.
        """
        if len(name) > _LONGEST_RECORD or not _RECORD.fullmatch(name):
            rule = f"it is small letters, digits, '.', '_', '-', '@' and '/', at most {_LONGEST_RECORD}"
            raise InvalidNameError("name of a record", name, rule)
        self._write(f"records/{name}", data)

    def close(self) -> None:  # noqa: B027 (most stores hold nothing that must be let go)
        """Let go of what the store holds open; it must not be used any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def _add(self, digest: Digest, data: bytes) -> None:
        """See to it that ``data`` lies under ``digest.key``: whole or not at all."""

    @abstractmethod
    def _write(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``, whole or not at all, in the place of what lies there."""

    @abstractmethod
    def _read(self, key: str, limit: int) -> bytes | None:
        """Return the bytes under ``key``, the first ``limit`` if there are more, or None for none."""

    @abstractmethod
    def _size(self, key: str) -> int | None:
        """Return how many bytes lie under ``key``, or None if nothing does."""

    def _check_size(self, digest: Digest, data: bytes) -> None:
        if len(data) > MAX_OBJECT_SIZE:
            raise ObjectTooLargeError(str(digest), str(self), MAX_OBJECT_SIZE)
