"""Files below one folder, written whole or not at all, and never through a symbolic link.

What a directory store and the cache have in common. Errors are the operating system's; whoever uses these
files knows what they mean.
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

__all__ = ["FileTree"]

_INCOMING = "incoming"
_CHUNK = 2**20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A planted link is not followed, and a planted pipe does not make the reader wait for its writer.
_NO_TRICKS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FileTree:
    """Files named by keys such as ``sha256/ab/cdef``.

    A file is written under ``incoming/`` and renamed into its place, so that a reader sees the whole file or
    none. Its writer holds a lock on it until then: what lies there unlocked was left by a process that died,
    and the first write of each tree sweeps it away.

    Every folder below the root is opened relative to the one above it, without following links, so nobody
    who can write somewhere in the tree can lead us out of it. The root itself may be a link.

    Args:
        root: The folder; made by the first write.
        durable: Whether a write returns only when the file would survive a power cut.
    """

    def __init__(self, root: Path, *, durable: bool) -> None:
        self._root = root
        self._durable = durable
        self._settled: set[tuple[str, ...]] = set()
        self._swept = False

    def read(self, key: str, limit: int) -> bytes | None:
        """Return the first ``limit`` bytes of the file ``key``, or None if there is no such file."""
        chunks = []
        try:
            with self._file(key) as file:
                while limit > 0 and (chunk := os.read(file, min(limit, _CHUNK))):
                    chunks.append(chunk)
                    limit -= len(chunk)
        except FileNotFoundError:
            return None
        return b"".join(chunks)

    def size(self, key: str) -> int | None:
        """Return the length of the file ``key``, or None if there is no such file."""
        try:
            with self._file(key) as file:
                return os.fstat(file).st_size
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        """Put ``data`` into the file ``key``, in the place of what is there."""
        *folders, name = key.split("/")
        with (
            self._folder(*folders, make=True) as target,
            self._folder(_INCOMING, make=True) as incoming,
        ):
            if not self._swept:
                _sweep(incoming)
                self._swept = True
            part, file = _create(incoming)
            try:
                _write_all(file, data)
                if self._durable:
                    os.fsync(file)
                os.rename(part, name, src_dir_fd=incoming, dst_dir_fd=target)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part, dir_fd=incoming)
                raise
            finally:
                os.close(file)
            if self._durable:
                os.fsync(target)

    def settle(self, key: str) -> None:
        """Return when the file ``key``, which another process may just have written, is durable."""
        *folders, _ = key.split("/")
        with self._folder(*folders, make=True) as folder, self._file(key) as file:
            os.fsync(file)
            os.fsync(folder)

    def touch(self, key: str) -> None:
        """Note that the file ``key`` was used now."""
        with self._file(key) as file:
            os.utime(file)

    def remove(self, key: str) -> None:
        """Remove the file ``key``; if it is gone already, that is as good."""
        *folders, name = key.split("/")
        with suppress(FileNotFoundError), self._folder(*folders) as folder:
            os.unlink(name, dir_fd=folder)

    def entries(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the key and the status of each file, but for those that are being written."""
        with self._folder() as root:
            for folder, folders, names, descriptor in os.fwalk(".", dir_fd=root):
                if folder == ".":
                    folders[:] = [name for name in folders if name != _INCOMING]
                for name in names:
                    with suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                        yield f"{folder}/{name}".removeprefix("./"), status

    @contextmanager
    def _file(self, key: str) -> Iterator[int]:
        *folders, name = key.split("/")
        with self._folder(*folders) as folder, _opened(name, folder) as file:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", name)
            yield file

    @contextmanager
    def _folder(self, *names: str, make: bool = False) -> Iterator[int]:
        with ExitStack() as opened:
            if make:
                self._make_root()
            folder = os.open(self._root, _FOLDER)
            opened.callback(os.close, folder)
            for depth, name in enumerate(names, start=1):
                made = make and _make(name, folder)
                child = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                opened.callback(os.close, child)
                if make and self._durable and (made or names[:depth] not in self._settled):
                    # Also if another process made it: that one may not have come this far yet.
                    os.fsync(folder)
                    self._settled.add(names[:depth])
                folder = child
            yield folder

    def _make_root(self) -> None:
        if () in self._settled and self._root.exists():
            return
        missing = [path for path in (self._root, *self._root.parents) if not path.exists()]
        for path in reversed(missing):
            _make(path)
        if self._durable:
            for path in missing or [self._root]:
                with suppress(PermissionError):  # of a parent that only its owner may list
                    _sync(path.parent)
        self._settled.add(())


def _make(path: str | Path, folder: int | None = None) -> bool:
    try:
        os.mkdir(path, 0o700, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _sync(path: Path) -> None:
    folder = os.open(path, _FOLDER)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _create(folder: int) -> tuple[str, int]:
    """Create a file of a new name, locked, and return its name and descriptor."""
    while True:
        name = secrets.token_hex(8)
        file = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_TRICKS, 0o600, dir_fd=folder
        )
        with suppress(OSError):  # where files cannot be locked nobody sweeps either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return name, file
        os.close(file)  # swept by another process between the two calls


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sweep(folder: int) -> None:
    """Remove the files that nobody is writing any more."""
    for name in os.listdir(folder):
        with suppress(OSError), _opened(name, folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    file = os.open(name, os.O_RDONLY | _NO_TRICKS, dir_fd=folder)
    try:
        yield file
    finally:
        os.close(file)
