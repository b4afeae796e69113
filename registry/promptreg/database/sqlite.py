"""SQLite: which library is used, and how each of its connections is set up."""

import sqlite3
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL

from promptreg.database.urls import connectable

__all__ = ["WRITING", "create_engine", "driver", "journal_for"]

WRITING = "promptreg_writing"
"""The execution option of a connection that is going to write."""

_BUSY_SECONDS = 30
_CACHE_KIBIBYTES = 32 * 1024


def create_engine(url: URL, *, foreign_keys: bool = True) -> Engine:
    """Return an engine on which every transaction, also one that makes tables, is whole or not at all."""
    module = driver()
    engine = sqlalchemy.create_engine(
        connectable(url),
        module=module,
        connect_args={"timeout": _BUSY_SECONDS},
        pool_timeout=_BUSY_SECONDS,
    )
    event.listen(engine, "connect", _on_connect(module, foreign_keys=foreign_keys))
    event.listen(engine, "begin", _on_begin)
    return engine


def driver() -> ModuleType:
    """Return Python's ``sqlite3``, or ``pysqlite3`` if that is there and only its library can log safely."""
    if journal_for(sqlite3.sqlite_version_info)[0] == "wal":
        return sqlite3
    try:
        module = import_module("pysqlite3.dbapi2")
    except ImportError:
        return sqlite3
    return module if journal_for(module.sqlite_version_info)[0] == "wal" else sqlite3


def journal_for(version: tuple[int, int, int]) -> tuple[str, str]:
    """Return the journal mode and the synchronous level that are safe with this release of SQLite.

    Write-ahead logging costs one write to the disk instead of five, but up to 3.51.2 two connections that
    write and reset the log at once can corrupt the file; 3.50.7 and 3.44.6 carry the fix too. A rollback
    journal needs EXTRA: the commit is its removal, which a power failure might undo.

    >>> journal_for((3, 40, 1)), journal_for((3, 53, 4))
    (('delete', 'EXTRA'), ('wal', 'FULL'))
    """
    backports = [(3, 44, 6), (3, 50, 7)]
    mended = version >= (3, 51, 3) or any(
        version[:2] == backport[:2] and version >= backport for backport in backports
    )
    return ("wal", "FULL") if mended else ("delete", "EXTRA")


def _on_connect(module: ModuleType, *, foreign_keys: bool) -> Callable[[Any, Any], None]:
    journal, synchronous = journal_for(module.sqlite_version_info)

    def on_connect(connection: Any, _record: object) -> None:
        # The driver itself begins nothing: it would run CREATE TABLE outside of any transaction, and a
        # migration that fails half-way would leave its tables behind.
        connection.isolation_level = None
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        _set_journal(connection, journal, module.OperationalError)

    return on_connect


def _set_journal(connection: Any, journal: str, operational_error: type[Exception]) -> None:
    """Set the journal mode, which the file remembers; alone of all statements this one waits for nobody."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone() != (journal,):
        try:
            connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
        except operational_error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith("SQLITE_READONLY"):
                return  # who cannot write cannot harm the journal either
            if name != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later could not wait for another writer: what it has read
    # might be stale by then, so SQLite fails it at once. One that says at the start that it will write waits.
    writing = connection.get_execution_options().get(WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
