"""Transactions: one for each thing that is asked of a database, tried again where that can help."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from promptreg.database.engine import WRITING
from promptreg.errors import DatabaseUnavailableError, PromptregError, StoreFullError

__all__ = ["Transactions", "translated"]

_T = TypeVar("_T")

_RETRIES = 5
_RETRIED = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
}
_FULL = {"SQLITE_FULL", "53100"}
_READ_ONLY = ("it is read-only", "give its user the right to write it")
_BUSY = ("another process has been writing for too long", "run the command again")
_BROKEN = ("its file is damaged", "restore it from a backup")
_UNOPENED = ("its file cannot be opened", "check PROMPTREG_DATABASE_URL and the file's rights")
# By SQLite's name or PostgreSQL's SQLSTATE; the longer ones come first, and a start is enough.
_REASONS: dict[str, tuple[str, str]] = {
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_PERM": _READ_ONLY,
    "SQLITE_BUSY": _BUSY,
    "SQLITE_LOCKED": _BUSY,
    "SQLITE_CORRUPT": _BROKEN,
    "SQLITE_NOTADB": ("its file is no SQLite database", "name another file"),
    "SQLITE_CANTOPEN": _UNOPENED,
    "SQLITE_IOERR": ("its file cannot be read or written", "check the disk that it lies on"),
    "25006": _READ_ONLY,
    "28": ("it refuses the user or the password", ""),
    "3D000": ("it does not exist on the server", "create it, or check PROMPTREG_DATABASE_URL"),
    "42501": ("its user lacks the rights", "grant them"),
    "53": ("the server has no room for another connection", "run the command again"),
    "55P03": _BUSY,
    "57014": ("a statement took longer than it may", "run the command again"),
    "40": _BUSY,
    "57": ("the server is stopping or starting", "run the command again"),
    "08": ("the connection was lost", "run the command again"),
}


class Transactions:
    """The transactions of one database."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{WRITING: True})
        self._name = name

    def read(self, work: Callable[[Connection], _T]) -> _T:
        """Return what ``work`` returns, run in a transaction that writes nothing."""
        return self._run(self._engine, work)

    def write(self, work: Callable[[Connection], _T]) -> _T:
        """Return what ``work`` returns, run in a transaction that is committed if it returns."""
        return self._run(self._writing, work)

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def _run(self, engine: Engine, work: Callable[[Connection], _T]) -> _T:
        with translated(self._name):
            for attempt in range(_RETRIES):
                try:
                    with engine.begin() as connection:
                        return work(connection)
                except DBAPIError as error:
                    if _code(error) not in _RETRIED:
                        raise
                # Those who collided come back at different moments: 10 ms, then up to 20, 40, 80, 160.
                time.sleep(random.uniform(0.01, 0.01 * 2**attempt))  # noqa: S311
            with engine.begin() as connection:
                return work(connection)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn what the driver says about the database ``name`` into errors of promptreg.

    What tells of a mistake in promptreg itself (a statement that cannot be understood, a broken constraint)
    stays what it is.

    Raises:
        DatabaseUnavailableError: It cannot be reached, opened, read or written.
        StoreFullError: Its disk is full.
    """
    try:
        yield
    except PoolTimeoutError as error:
        reason = "all its connections have been busy for too long"
        raise DatabaseUnavailableError(name, reason, "run the command again") from error
    except DBAPIError as error:
        known = _known(name, error)
        if known is None:
            raise
        raise known from error


def _known(name: str, error: DBAPIError) -> PromptregError | None:
    code = _code(error)
    message = " ".join(str(error.orig).split())
    if code in _FULL:
        return StoreFullError(f"the disk of the database {name}", message)
    for start, (reason, remedy) in _REASONS.items():
        if code.startswith(start):
            return DatabaseUnavailableError(name, f"{reason} ({message})", remedy)
    if error.connection_invalidated or (
        type(error.orig).__name__ == "OperationalError" and not code
    ):
        return DatabaseUnavailableError(name, message)
    return None


def _code(error: DBAPIError) -> str:
    """Return SQLite's name of the error or PostgreSQL's SQLSTATE, empty if it has none."""
    for attribute in ("sqlite_errorname", "sqlstate"):
        code = getattr(error.orig, attribute, None)
        if code:
            return str(code)
    return ""
