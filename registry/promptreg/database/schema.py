"""The schema: which revision this release needs, which one a database has, and how it gets there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from promptreg.database import urls
from promptreg.database.engine import WRITING, create_engine
from promptreg.database.transactions import translated
from promptreg.errors import DatabaseUnavailableError, SchemaError

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "HEAD",
    "REVISIONS",
    "configuration",
    "current_revision",
    "is_older",
    "make_file",
    "upgrade",
]

REVISIONS = ("0001", "0002", "0003")
"""Every revision, the oldest first. Known here, so that opening a database need not import Alembic."""
HEAD = REVISIONS[-1]
"""The revision that this release needs."""

_UPGRADE_LOCK = 0x70726F6D70747265
"""A number of our own for PostgreSQL's advisory lock: ``promptre`` in ASCII."""
_UNDEFINED_TABLE = "42P01"


def is_older(revision: str | None) -> bool:
    """Return whether this release can upgrade a schema of ``revision``, where None is no schema yet."""
    return revision is None or revision in REVISIONS[:-1]


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema, None if it has none yet.

    This may be the last thing that the transaction can do: PostgreSQL ends it if there is no such table.
    """
    try:
        revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except DBAPIError as error:
        if "no such table" in str(error.orig) or (
            getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE
        ):
            return None
        raise
    return None if revision is None else str(revision)


def upgrade(url: str) -> tuple[str | None, str]:
    """Bring the schema of the database at ``url`` to this release's; a missing SQLite file is made.

    Of several that upgrade at once one does the work, and the others wait for it and find it done. The whole
    upgrade is one transaction: if a step fails, nothing has happened.

    Returns:
        The revision before (None if there was none), and the one after.

    Raises:
        ConfigurationError: ``url`` cannot be understood.
        DatabaseUnavailableError: The database cannot be reached or written.
        SchemaError: Its schema is a newer release's.
    """
    parsed = urls.parse(url)
    name = urls.display(parsed)
    file = urls.file_of(parsed)
    if file is not None:
        make_file(file, name)
    return _upgrade(parsed, name)


def _upgrade(url: URL, name: str) -> tuple[str | None, str]:
    from alembic import command
    from alembic.runtime.migration import MigrationContext

    engine = create_engine(url, migrating=True).execution_options(**{WRITING: True})
    try:
        with translated(name), engine.begin() as connection:
            _wait_for_others(connection)
            before = MigrationContext.configure(connection).get_current_revision()
            if before is None and inspect(connection).has_table("prompts"):
                reason = "its tables are there, and the revision of its schema is not"
                raise DatabaseUnavailableError(name, reason, "restore it from a backup")
            if is_older(before):
                command.upgrade(configuration(connection), HEAD)
                _check_foreign_keys(connection, name)
            elif before != HEAD:
                raise SchemaError(name, before, HEAD, newer=True)
            return before, HEAD
    finally:
        engine.dispose()


def configuration(connection: Connection | None = None) -> "Config":
    """Return Alembic's configuration, made from the installed package; its steps run on ``connection``."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "promptreg_migrations:")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _wait_for_others(connection: Connection) -> None:
    """Let one upgrade at a time go on; SQLite's BEGIN IMMEDIATE has done it already."""
    if connection.dialect.name != "postgresql":
        return
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL lock_timeout = '10min'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    # From here on the locks are those of tables: who waits long for one keeps everybody else waiting.
    connection.execute(text("SET LOCAL lock_timeout = '30s'"))


def _check_foreign_keys(connection: Connection, name: str) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.execute(text("PRAGMA foreign_key_check")).all()
    if broken:
        tables = ", ".join(sorted({str(row[0]) for row in broken}))
        reason = f"after the upgrade rows of {tables} would refer to rows that are not there"
        raise DatabaseUnavailableError(
            name, reason, "nothing was changed; restore the rows from a backup"
        )


def make_file(file: Path, name: str) -> None:
    """Make the file of the database ``name``, and its folder, if they are not there, for their owner only.

    Raises:
        DatabaseUnavailableError: They cannot be made.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        reason = f"its file cannot be made ({error.strerror or error})"
        raise DatabaseUnavailableError(name, reason) from error
