"""A local cache of objects."""

import logging
import random
from collections.abc import Callable
from pathlib import Path

from promptreg.digests import Digest
from promptreg.objects.files import FileTree
from promptreg.objects.store import MAX_OBJECT_SIZE

__all__ = ["ObjectCache"]

_LOG = logging.getLogger(__name__)
_DEFAULT_SIZE = 2**30


class ObjectCache:
    """Objects of any store, kept in the directory ``root`` so that they are fetched once.

    Processes may share it. It never makes anything fail: what is damaged is fetched again, and a directory
    that cannot be written is done without. Nothing is synced, for what a power cut takes is fetched again.

    Args:
        root: The directory; made when the first object is kept.
        max_size: How many bytes to keep. The objects that were used least recently go first. Sizes are
            looked at now and then only, so there may for a while be a little more.
    """

    def __init__(self, root: Path, max_size: int = _DEFAULT_SIZE) -> None:
        self._root = root.absolute()
        self._max_size = max_size
        self._files = FileTree(self._root, durable=False)
        self._complained = False

    def __str__(self) -> str:
        return str(self._root)

    def get(self, digest: Digest, fetch: Callable[[Digest], bytes]) -> bytes:
        """Return the bytes named ``digest``: from here if they are here and whole, else from ``fetch``.

        Args:
            digest: What is wanted.
            fetch: Brings verified bytes, as ``ObjectStore.get`` does. Its errors are the caller's.
        """
        data = self._find(digest)
        if data is None:
            data = fetch(digest)
            self._keep(digest, data)
        return data

    def _find(self, digest: Digest) -> bytes | None:
        try:
            data = self._files.read(digest.key, MAX_OBJECT_SIZE + 1)
            if data is None:
                return None
            if Digest.of(data) != digest:
                self._files.remove(digest.key)
                return None
        except OSError as error:
            self._complain(error)
            return None
        self._touch(digest)
        return data

    def _touch(self, digest: Digest) -> None:
        try:
            self._files.touch(digest.key)
        except OSError as error:
            _LOG.debug("cannot note the use of %s: %s", digest, error)

    def _keep(self, digest: Digest, data: bytes) -> None:
        if len(data) > self._max_size:
            return
        try:
            self._files.write(digest.key, data)
            # Looking at every file costs the same however much was written, so it is done once, on
            # average, in every sixteenth of the cache's size, by whichever process the dice choose.
            if random.random() * self._max_size < 16 * len(data):  # noqa: S311
                self._evict()
        except OSError as error:
            self._complain(error)

    def _evict(self) -> None:
        entries = sorted(self._files.entries(), key=lambda entry: entry[1].st_mtime_ns)
        excess = sum(status.st_size for _, status in entries) - self._max_size
        if excess <= 0:
            return
        excess += self._max_size // 8  # room, so that the next look finds nothing to do
        for key, status in entries:
            if excess <= 0:
                break
            self._files.remove(key)
            excess -= status.st_size

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            _LOG.warning("going on without the cache %s: %s", self._root, error)
            self._complained = True
