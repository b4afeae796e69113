"""The interface of an object store: bytes in, digest out, verified on every read."""

from abc import ABC, abstractmethod

from promptreg.digests import Digest
from promptreg.errors import CorruptObjectError, ObjectNotFoundError

__all__ = ["ObjectStore"]


class ObjectStore(ABC):
    """Content-addressed bytes. Storing twice changes nothing; a reader sees a whole object or none."""

    def put(self, data: bytes) -> Digest:
        """Store ``data`` and return its digest. Storing the same bytes again changes nothing.

        Raises:
            StoreUnavailableError: The store cannot be reached or written.
            StoreFullError: It has no room left.
        """
        digest = Digest.of(data)
        self._write(digest.key, data)
        return digest

    def get(self, digest: Digest) -> bytes:
        """Return the bytes named ``digest``.

        Raises:
            ObjectNotFoundError: The store holds no such object.
            CorruptObjectError: The bytes do not have that digest.
            StoreUnavailableError: The store cannot be reached or read.
        """
        data = self._read(digest.key)
        if data is None:
            raise ObjectNotFoundError(str(digest), str(self))
        actual = Digest.of(data)
        if actual != digest:
            raise CorruptObjectError(str(digest), str(actual), str(self))
        return data

    def has(self, digest: Digest) -> bool:
        """Return whether the store holds an object named ``digest``, without reading it."""
        return self._size(digest.key) is not None

    def put_record(self, name: str, data: bytes) -> None:
        """Store ``data`` under ``records/<name>``: a description of a version, for rebuilding the database.

        Records are named after versions, not after their bytes; they are never read in normal use.
        """
        self._write(f"records/{name}", data)

    @abstractmethod
    def _write(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``: whole or not at all."""

    @abstractmethod
    def _read(self, key: str) -> bytes | None:
        """Return the bytes under ``key``, or None if there are none."""

    @abstractmethod
    def _size(self, key: str) -> int | None:
        """Return how many bytes lie under ``key``, or None if there are none."""
