"""Where a database is: what a person writes, and what SQLAlchemy is given."""

import re
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from promptreg.errors import ConfigurationError, MissingDependencyError

__all__ = ["connectable", "display", "file_of", "parse"]

_SETTING = "the database URL"
_REMEDY = "use sqlite:///PATH, a path, or postgresql://USER@HOST/NAME"
_POSTGRESQL = {"postgres", "postgresql", "postgresql+psycopg"}
_SQLITE = {"sqlite", "sqlite+pysqlite"}


def parse(url: str) -> URL:
    """Return what SQLAlchemy is given for ``url``; a plain path is a SQLite file.

    >>> str(parse("registry.db"))
    'sqlite+pysqlite:///registry.db'
    >>> str(parse("postgres://me@db.example/prompts"))
    'postgresql+psycopg://me@db.example/prompts'

    Raises:
        ConfigurationError: It cannot be understood, or names an engine that promptreg does not use.
        MissingDependencyError: It names PostgreSQL, and psycopg is not installed.
    """
    if "://" not in url:
        return _sqlite(URL.create("sqlite", database=url), url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        shown = re.sub(r":[^:/@]*@", ":***@", url)
        raise ConfigurationError(_SETTING, shown, "it is no URL", _REMEDY) from error
    if parsed.drivername in _SQLITE:
        return _sqlite(parsed, url)
    if parsed.drivername in _POSTGRESQL:
        return _postgresql(parsed)
    reason = f"promptreg does not use {parsed.drivername!r}"
    raise ConfigurationError(_SETTING, display(parsed), reason, _REMEDY)


def display(url: URL) -> str:
    """Return ``url`` as a person would write it, without the password."""
    secrets = [name for name in url.query if "password" in name.lower()]
    shown = url.difference_update_query(secrets).set(drivername=url.get_backend_name())
    return shown.render_as_string(hide_password=True)


def file_of(url: URL) -> Path | None:
    """Return the file of a SQLite database, None for a server."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return Path(url.database)


def connectable(url: URL) -> URL:
    """Return ``url`` so that SQLite opens the file that is there, and never makes an empty one."""
    file = file_of(url)
    if file is None:
        return url
    query = {"mode": "rw", **url.query, "uri": "true"}
    return url.set(database=f"file:{quote(str(file))}", query=query)


def _sqlite(url: URL, written: str) -> URL:
    if not url.database or url.database == ":memory:":
        reason = "a database in memory would be gone with its connection"
        raise ConfigurationError(_SETTING, written, reason, "name a file: sqlite:///PATH")
    if url.query.keys() - {"mode"} or url.query.get("mode", "rw") not in {"ro", "rw"}:
        reason = "of SQLite's options only mode=ro is understood"
        raise ConfigurationError(_SETTING, written, reason, "leave out what follows the '?'")
    path = Path(url.database).expanduser()
    return url.set(drivername="sqlite+pysqlite", database=str(path))


def _postgresql(url: URL) -> URL:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("psycopg", "postgresql", "a PostgreSQL database") from error
    return url.set(drivername="postgresql+psycopg")
