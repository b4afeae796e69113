"""An object store in a directory."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptreg.digests import Digest
from promptreg.errors import StoreError, StoreFullError, StoreUnavailableError
from promptreg.objects.files import FileTree
from promptreg.objects.store import ObjectStore

__all__ = ["DirectoryStore"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ALLOW = "let user {user} read and write {root}"
_REMOVE = "remove what lies there and push the prompt again"
_REASONS = {
    errno.EACCES: ("permission denied", _ALLOW),
    errno.EPERM: ("permission denied", _ALLOW),
    errno.EROFS: ("its file system is read-only", "mount it writable"),
    errno.ENOTDIR: ("a part of that path is no folder, and no link is followed there", _REMOVE),
    errno.ELOOP: ("it is a symbolic link, and none is followed there", _REMOVE),
    errno.EISDIR: ("it is a folder", _REMOVE),
    errno.EINVAL: ("it is no regular file", _REMOVE),
}


class DirectoryStore(ObjectStore):
    """An object store in the directory ``root``, which the first ``put`` makes.

    An object is acknowledged when it is on disk: the file is synced, renamed into its place, and the folder
    synced. Files are for their owner only (0600, in folders of 0700).
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._files = FileTree(self._root, durable=True)

    def __str__(self) -> str:
        return str(self._root)

    def _add(self, digest: Digest, data: bytes) -> None:
        with self._translating(digest.key):
            if self._holds(digest.key, data):
                self._files.settle(digest.key)
            else:
                self._files.write(digest.key, data)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self._files.read(key, len(data) + 1) == data
        except OSError:
            return False  # what cannot be read is replaced, if it can be

    def _write(self, key: str, data: bytes) -> None:
        with self._translating(key):
            self._files.write(key, data)

    def _read(self, key: str, limit: int) -> bytes | None:
        with self._translating(key):
            return self._files.read(key, limit)

    def _size(self, key: str) -> int | None:
        with self._translating(key):
            return self._files.size(key)

    @contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translated(error, key) from error

    def _translated(self, error: OSError, key: str) -> StoreError:
        code = error.errno or 0
        said = error.strerror or str(error)
        if code in _FULL:
            return StoreFullError(str(self), said)
        reason, remedy = _REASONS.get(code, (said, "check the disk"))
        remedy = remedy.format(user=os.geteuid(), root=self._root)
        return StoreUnavailableError(
            str(self),
            f"{self._root / key}: {reason}",
            f"{remedy}, or name another directory in PROMPTREG_OBJECTS_URL",
        )
